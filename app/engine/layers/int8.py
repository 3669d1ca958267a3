"""Linear layers with 8-bit weights: in groups by the compiled product, else one scale per output by torch."""

from functools import partial

import torch
from torch import Tensor, nn

from app.engine.layers.compiled.product import grouped_product
from app.engine.layers.grouped_layers import grouped_int8_layer
from app.engine.layers.packed_linear import MakeLayer

_LARGEST = 127
_FEW_ROWS = 10  # with more rows, converting the weights back to float32 costs less than the int8 product
_BLOCK = 2**23  # weights that are converted at a time
_SMALLEST_SCALE = 1e-12  # the scale of a row or channel of zeros


def int8_layer(dtype: torch.dtype) -> MakeLayer | None:
    """Returns a layer with 8-bit weights for rows of `dtype`; None if torch has no such product here."""
    if grouped_product() is not None:
        return grouped_int8_layer(dtype)
    return partial(WeightInt8Linear, dtype=dtype) if _works() else None


class WeightInt8Linear(nn.Module):
    """Multiplies rows in bfloat16 or float32 by integer weights, which have one scale per output."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype) -> None:
        super().__init__()
        self._scales = _scales(weight).bfloat16()
        self._weight = _rounded(weight, self._scales.float())
        self._bias = bias
        self._dtype = dtype

    def forward(self, rows: Tensor) -> Tensor:
        flat = rows.reshape(-1, rows.shape[-1]).bfloat16()
        output = self._product(flat) if len(flat) <= _FEW_ROWS else self._widened_product(flat.float())
        return _shaped(output, rows, self._bias, self._dtype)

    def _product(self, rows: Tensor) -> Tensor:
        return torch._weight_int8pack_mm(rows, self._weight, self._scales.squeeze(1))

    def _widened_product(self, rows: Tensor) -> Tensor:
        count = -(-self._weight.numel() // _BLOCK)
        blocks = [rows @ block.float().t() for block in self._weight.chunk(count)]
        return torch.cat(blocks, dim=-1) * self._scales.float().squeeze(1)


def _scales(weight: Tensor) -> Tensor:
    """Returns the value of one integer step in each output channel, `[outputs, 1]` in float32."""
    return weight.float().abs().amax(1, keepdim=True).div_(_LARGEST).clamp_min_(_SMALLEST_SCALE)


def _rounded(weight: Tensor, scales: Tensor) -> Tensor:
    return (weight.float() / scales).round_().clamp_(-_LARGEST, _LARGEST).to(torch.int8).contiguous()


def _shaped(output: Tensor, rows: Tensor, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    output = output.to(dtype).view(*rows.shape[:-1], output.shape[-1])
    return output if bias is None else output + bias


@torch.inference_mode()
def _works() -> bool:
    """Returns whether torch has the product here, and it is right for few rows and for many."""
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 32, generator=random)
    rows = torch.randn(2 * _FEW_ROWS, 32, generator=random)
    expected = rows @ weight.t()
    try:
        layer = WeightInt8Linear(weight, None, torch.float32)
        return all(_is_near(layer(rows[:n]), expected[:n]) for n in (1, len(rows)))
    except (RuntimeError, AttributeError):  # no such operator in this torch, or none for this processor
        return False


def _is_near(output: Tensor, expected: Tensor) -> bool:
    return bool((output - expected).norm() < 0.05 * expected.norm())
