"""Linear layers for the CPU whose weights are packed once, so that eight rows cost little more than one."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

MakeLayer = Callable[[Tensor, Tensor | None], nn.Module]  # of weight `[outputs, inputs]`, as stored, and bias

_EXPECTED_ROWS = 8  # the layout is optimised for this many tokens in a pass; any number works
_BLOCK = 2**24  # weights that are converted to float16 at a time


def ordinary_linear(weight: Tensor, bias: Tensor | None) -> nn.Linear:
    """Returns torch's layer with that weight, `[outputs, inputs]`."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    layer.weight = nn.Parameter(weight, requires_grad=False)
    if bias is not None:
        layer.bias = nn.Parameter(bias, requires_grad=False)
    return layer


class PackedLinear(nn.Module):
    """`rows @ weight.T + bias` in bfloat16 or float32; `weight` is `[outputs, inputs]` in oneDNN's layout."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        weight = weight.to(dtype).contiguous()
        self._packed = torch.ops.mkldnn._reorder_linear_weight(weight, _EXPECTED_ROWS)
        self._bias = bias
        self._product = torch.ops.mkldnn._linear_pointwise.default  # finding the overload takes some time

    def forward(self, rows: Tensor) -> Tensor:
        output: Tensor = self._product(rows, self._packed, self._bias, "none", [], "")
        return output

    def gelu(self, rows: Tensor) -> Tensor:
        """Returns the GELU of the output, by its tanh approximation, computed with the product."""
        output: Tensor = self._product(rows, self._packed, self._bias, "gelu", [], "tanh")
        return output


class HalfLinear(nn.Module):
    """Computes in float32 with weights kept in float16, which halves the bytes to read. Uses FBGEMM.

    The weights of a 16-bit checkpoint keep their values, except bfloat16 weights below 1e-7.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, block: int = _BLOCK) -> None:
        super().__init__()
        # Packing a whole vocabulary at once takes twice the memory and three times as long as blocks of it.
        weights = weight.chunk(-(-weight.numel() // block))
        biases = (
            [None] * len(weights)
            if bias is None
            else bias.split_with_sizes([len(block) for block in weights])
        )
        pack = torch.ops.quantized.linear_prepack_fp16
        self._blocks = [pack(block.float(), part) for block, part in zip(weights, biases, strict=True)]

    def forward(self, rows: Tensor) -> Tensor:
        product = torch.ops.quantized.linear_dynamic_fp16
        outputs: list[Tensor] = [product(rows, block) for block in self._blocks]
        return outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)


def packed_layer(dtype: torch.dtype) -> MakeLayer | None:
    """Returns PackedLinear for rows of `dtype`; None if oneDNN has no such product on this processor."""
    is_fast = computes_in_bfloat16() if dtype == torch.bfloat16 else dtype == torch.float32 and _has_onednn()
    return partial(PackedLinear, dtype=dtype) if is_fast else None


def half_layer(dtype: torch.dtype) -> MakeLayer | None:
    """Returns a layer for rows in float32; None for other rows, or if torch has no such product here.

    It keeps its weights in float16, except in a layer with a weight that float16 cannot hold.
    """
    return _half if dtype == torch.float32 and _has_half_products() else None


def _half(weight: Tensor, bias: Tensor | None) -> nn.Module:
    if float(weight.abs().max()) <= torch.finfo(torch.float16).max:
        return HalfLinear(weight, bias)
    return PackedLinear(weight, bias, torch.float32)


def computes_in_bfloat16(operators: Any = torch.ops.mkldnn) -> bool:  # torch fills it at run time
    """Returns whether oneDNN computes in bfloat16 on this processor. Torch for macOS has no oneDNN."""
    if not _has_onednn(operators) or not hasattr(operators, "_is_mkldnn_bf16_supported"):
        return False
    return bool(operators._is_mkldnn_bf16_supported())


@torch.inference_mode()
def _has_half_products() -> bool:
    """Returns whether torch was built with FBGEMM for this processor."""
    try:
        return bool(HalfLinear(torch.ones(8, 8), None)(torch.ones(1, 8)).eq(8).all())
    except (RuntimeError, AttributeError):  # this build lacks the operator, or an engine for it
        return False


def _has_onednn(operators: Any = torch.ops.mkldnn) -> bool:  # as above
    is_available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(is_available) and hasattr(operators, "_reorder_linear_weight")
