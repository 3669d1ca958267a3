"""Arranges grouped weights in the layout of the compiled product, one matrix or several of the same shape."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import frexp, isfinite, ldexp

import torch
from torch import Tensor
from torch.nn.functional import pad

from app.engine.layers.grouped_weight import GROUP, GroupedWeight, zero_steps

_TILE = 16  # outputs side by side in memory
_CHUNK = 2**22  # weights that are arranged at a time
_LARGEST_EXPONENT = 15  # the largest scale or zero is below 2^15 units, because float16 ends at 65,504
_LEAST_EXPONENT = -100  # float32 ends at 2^-126


@dataclass(frozen=True, slots=True)
class Tiles:
    """A matrix whose integers are in the layout of the C file.

    `scales` and `zeros` are `[outputs, groups]`, with zeros for the outputs that a last tile lacks.
    """

    bits: int
    outputs: int
    inputs: int
    integers: Tensor
    scales: Tensor
    zeros: Tensor | None

    @classmethod
    def of(cls, weight: GroupedWeight) -> "Tiles":
        outputs, inputs = weight.integers.shape
        zeros = None if weight.zeros is None else _padded(weight.zeros)
        return cls(weight.bits, outputs, inputs, _arranged(weight), _padded(weight.scales), zeros)


@dataclass(frozen=True, slots=True)
class TiledWeights:
    """Matrices of the same shape, one after the other, as the product takes them.

    Scales are in float16, in units. So are zeros, or in int8, as sixteenths of the scales.
    """

    bits: int
    count: int
    outputs: int
    inputs: int
    integers: Tensor
    scales: Tensor
    zeros: Tensor | None
    unit: float

    @classmethod
    def of(cls, matrices: Sequence[Tiles]) -> "TiledWeights":
        first = matrices[0]
        scales = _joined([matrix.scales for matrix in matrices])
        zeros = [matrix.zeros for matrix in matrices if matrix.zeros is not None]
        unit = _unit(scales, *zeros)
        return cls(
            first.bits,
            len(matrices),
            first.outputs,
            first.inputs,
            _joined([matrix.integers for matrix in matrices]),
            _in_tiles(scales, unit),
            _tiled_zeros(scales, _joined(zeros), unit) if zeros else None,
            unit,
        )

    @property
    def nbytes(self) -> int:
        kept = (self.integers, self.scales, self.zeros)
        return sum(tensor.nbytes for tensor in kept if tensor is not None)


def _arranged(weight: GroupedWeight) -> Tensor:
    """Returns the integers in the layout that the C file describes."""
    rows = max(1, _CHUNK // (weight.integers.shape[1] * _TILE)) * _TILE
    return torch.cat([_tiles(some, weight.bits) for some in torch.split(weight.integers, rows)])


def _tiles(integers: Tensor, bits: int) -> Tensor:
    padded = _padded(integers)
    fours = padded.view(-1, _TILE, padded.shape[1] // GROUP, GROUP // 4, 4).permute(0, 2, 3, 1, 4)
    if bits == 8:
        return fours.contiguous()
    first, second = fours.chunk(2, dim=2)
    return first | (second << 4)


def _padded(rows: Tensor) -> Tensor:
    return pad(rows, (0, 0, 0, -len(rows) % _TILE))


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def _unit(*factors: Tensor) -> float:
    """Returns the power of two by which scales and zeros are divided, so that float16 has room for them.

    Those above 2^-29 of the largest then keep all bits of float16.
    """
    largest = max(float(some.abs().max()) for some in factors)
    if not isfinite(largest):
        return 1.0
    return ldexp(1.0, max(frexp(largest)[1], _LEAST_EXPONENT) - _LARGEST_EXPONENT)


def _in_tiles(factors: Tensor, unit: float) -> Tensor:
    """Returns scales or zeros `[outputs, groups]` as `[tiles, groups, 16]` in float16, in units."""
    return _tiled((factors.float() / unit).half())


def _tiled_zeros(scales: Tensor, zeros: Tensor, unit: float) -> Tensor:
    """Returns the zeros in int8 if they are steps, which take half the memory; else as the scales are."""
    steps = zero_steps(scales, zeros)
    return _in_tiles(zeros, unit) if steps is None else _tiled(steps)


def _tiled(factors: Tensor) -> Tensor:
    return factors.view(-1, _TILE, factors.shape[1]).transpose(1, 2).contiguous()
