"""Linear layers whose grouped weights are multiplied by the compiled product, for few rows and for many."""

from math import frexp, isfinite, ldexp

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from app.engine.layers.compiled.product import GroupedProduct
from app.engine.layers.grouped_weight import GROUP, GroupedWeight, zero_steps

_TILE = 16  # outputs side by side in memory
_CHUNK = 2**22  # weights that are arranged at a time
_LARGEST_EXPONENT = 15  # the largest scale or zero is below 2^15 units, because float16 ends at 65,504
_LEAST_EXPONENT = -100  # float32 ends at 2^-126


class CompiledLinear(nn.Module):
    """`rows @ weight.T + bias`. The rows are rounded to 15 bits in groups of 32; the output is in `dtype`."""

    def __init__(
        self, weight: GroupedWeight, bias: Tensor | None, dtype: torch.dtype, product: GroupedProduct
    ) -> None:
        super().__init__()
        self._outputs, self._inputs = weight.integers.shape
        self._bits = weight.bits
        self._integers = _arranged(weight)
        self._unit = _unit(weight)
        self._scales = _in_tiles(weight.scales, self._unit)
        self._zeros = _zeros(weight, self._unit)
        self._bias = None if bias is None else bias.float().contiguous()
        self._dtype = dtype
        # The product takes no float16.
        self._computed = torch.float32 if dtype == torch.float16 else dtype
        self._product = product

    def forward(self, rows: Tensor) -> Tensor:
        if not 0 <= self._inputs - rows.shape[-1] < GROUP:
            raise ValueError(f"rows of {rows.shape[-1]} numbers for a layer with {self._inputs} inputs")
        rows = rows.to(self._computed).contiguous()
        output = rows.new_empty(*rows.shape[:-1], self._outputs)
        weight = self._bits, self._integers, self._scales, self._zeros, self._unit
        self._product(*weight, self._bias, rows, output)
        return output.to(self._dtype)


def _arranged(weight: GroupedWeight) -> Tensor:
    """Returns the integers in the layout that the C file describes."""
    rows = max(1, _CHUNK // (weight.integers.shape[1] * _TILE)) * _TILE
    return torch.cat([_tiles(some, weight.bits) for some in torch.split(weight.integers, rows)])


def _tiles(integers: Tensor, bits: int) -> Tensor:
    padded = pad(integers, (0, 0, 0, -len(integers) % _TILE))
    fours = padded.view(-1, _TILE, padded.shape[1] // GROUP, GROUP // 4, 4).permute(0, 2, 3, 1, 4)
    if bits == 8:
        return fours.contiguous()
    first, second = fours.chunk(2, dim=2)
    return first | (second << 4)


def _unit(weight: GroupedWeight) -> float:
    """Returns the power of two by which scales and zeros are divided, so that float16 has room for them.

    Those above 2^-29 of the largest then keep all bits of float16.
    """
    largest = max(
        float(factors.abs().max()) for factors in (weight.scales, weight.zeros) if factors is not None
    )
    if not isfinite(largest):
        return 1.0
    return ldexp(1.0, max(frexp(largest)[1], _LEAST_EXPONENT) - _LARGEST_EXPONENT)


def _in_tiles(factors: Tensor, unit: float) -> Tensor:
    """Returns scales or zeros `[outputs, groups]` as `[tiles, groups, 16]` in float16, in units."""
    return _tiled((factors.float() / unit).half())


def _zeros(weight: GroupedWeight, unit: float) -> Tensor | None:
    """Returns the zeros in int8 if they are steps, which take half the memory; else as the scales are."""
    if weight.zeros is None:
        return None
    steps = zero_steps(weight.scales, weight.zeros)
    return _in_tiles(weight.zeros, unit) if steps is None else _tiled(steps)


def _tiled(factors: Tensor) -> Tensor:
    padded = pad(factors, (0, 0, 0, -len(factors) % _TILE))
    return padded.view(-1, _TILE, padded.shape[1]).transpose(1, 2).contiguous()
