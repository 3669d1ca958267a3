"""Compares Triton's kernel for decoding with plain attention. Raises AssertionError if they differ.

`TRITON_INTERPRET=1 python -m tests.engine.execution.decode_kernel` needs no GPU.
"""

from itertools import product

import torch
from torch import Tensor

from app.engine.execution.attention.decode_kernel import attend_rows
from app.engine.execution.attention.interface import LayerAttention
from tests.engine.tiny import DEVICE

_STARTS, _POSITIONS = (2, 60, 1), (40, 250, 0)


def main() -> None:
    torch.manual_seed(0)
    shapes = ((64, 8, 2), (20, 4, 4), (256, 8, 2))
    for (dim, heads, kv_heads), window, softcap in product(shapes, (None, 9), (None, 20.0)):
        layer = LayerAttention(0, dim**-0.5, window, softcap)
        stored = torch.randn(2, 1, kv_heads, 400, dim, device=DEVICE)
        query = torch.randn(1, len(_STARTS), heads, dim, device=DEVICE).transpose(1, 2)
        starts, positions = (torch.tensor(each, device=DEVICE) for each in (_STARTS, _POSITIONS))
        is_plain = dim == 64 and window is None and softcap is None
        for length in (256, 1280) if is_plain else (256,):  # 1280: more chunks than are joined at a time
            output = attend_rows(layer, query, stored, starts, positions, length)
            torch.testing.assert_close(output, _expected(layer, query, stored), rtol=1e-4, atol=1e-4)


def _expected(layer: LayerAttention, query: Tensor, stored: Tensor) -> Tensor:
    rows = []
    group = query.shape[1] // stored.shape[2]
    for row, (start, position) in enumerate(zip(_STARTS, _POSITIONS, strict=True)):
        first = 0 if layer.window is None else max(0, position + 1 - layer.window)
        keys, values = stored[:, 0, :, start + first : start + position + 1].repeat_interleave(group, dim=1)
        scores = (query[0, :, row, None] @ keys.transpose(1, 2)) * layer.scale
        if layer.softcap is not None:
            scores = layer.softcap * torch.tanh(scores / layer.softcap)
        rows.append((scores.softmax(-1) @ values)[:, 0])
    return torch.stack(rows).unsqueeze(0)


if __name__ == "__main__":
    main()
