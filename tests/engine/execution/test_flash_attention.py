"""Flash attention over a pool writes and gives what variable-length attention does."""

import pytest
import torch
from torch import Tensor

from app.engine.execution.attention.flash import FlashAttention, has_flash_attention, runs
from app.engine.execution.attention.interface import LayerAttention
from app.engine.execution.attention.varlen import PackedSequence, VarlenAttention
from app.engine.kv.pool import KVPool
from tests.engine.tiny import DEVICE

needs_flash_attention = pytest.mark.skipif(
    not has_flash_attention(DEVICE, torch.bfloat16), reason="needs a GPU (see docs/development.md)"
)


def test_runs_are_joined() -> None:
    assert runs([5, 40, 2], [3, 1, 2], torch.device("cpu")).tolist() == [5, 6, 7, 40, 2, 3]
    assert runs([7], [2], torch.device("cpu")).tolist() == [7, 8]


def rows(heads: int, count: int, dim: int) -> Tensor:
    return torch.randn(1, count, heads, dim, device=DEVICE, dtype=torch.bfloat16).transpose(1, 2)


@needs_flash_attention
@pytest.mark.parametrize("dim", [64, 128, 20])
@pytest.mark.parametrize("window", [None, 9])
@pytest.mark.parametrize("softcap", [None, 20.0])
@pytest.mark.parametrize("starts", [(0, 0, 0), (30, 0, 65)])
def test_flash_attention_gives_the_output_of_varlen_attention(
    dim: int, window: int | None, softcap: float | None, starts: tuple[int, ...]
) -> None:
    pool, counts = KVPool(1024), (17, 1, 40)
    slots = [pool.new(200) for _ in counts]
    for slot in slots:
        slot.write(0, 0, torch.randn(2, 1, 2, 100, dim, device=DEVICE, dtype=torch.bfloat16))
    ends = [sum(counts[: index + 1]) for index in range(len(counts))]
    sequences = [
        PackedSequence(slot, end - count, end, start)
        for slot, end, count, start in zip(slots, ends, counts, starts, strict=True)
    ]
    layer = LayerAttention(0, dim**-0.5, window, softcap)
    query = rows(8, ends[-1], dim)
    pairs = torch.stack((rows(2, ends[-1], dim), rows(2, ends[-1], dim)))
    flash = FlashAttention(pool, sequences, DEVICE).attend(layer, query, pairs)
    stored = pool.layer(0, pairs).clone()
    varlen = VarlenAttention(sequences).attend(layer, query, pairs)
    assert torch.equal(stored, pool.layer(0, pairs))
    torch.testing.assert_close(flash, varlen, rtol=0.02, atol=0.02)
