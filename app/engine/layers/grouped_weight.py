"""Weights as small integers in groups of 32, each group with its own scale and zero."""

from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 32  # weights with a common scale and zero
CENTRE = 8  # of unsigned 4-bit integers
_STEPS = 16  # of a zero in a scale
_MOST_STEPS = 127  # a zero of so many, or of fewer the other way, has room in int8


@dataclass(frozen=True, slots=True)
class GroupedWeight:
    """A matrix `(integers - centre) * scales + zeros`.

    `integers` is `[outputs, inputs]` in uint8, with values below 16 and the centre 8 if `bits` is 4, and with
    the centre 128 if it is 8, which allows no zeros. `scales` and `zeros` are `[outputs, inputs / 32]`.
    """

    bits: int
    integers: Tensor
    scales: Tensor
    zeros: Tensor | None = None

    @classmethod
    def joined(cls, parts: list["GroupedWeight"]) -> "GroupedWeight":
        """Returns the rows of all parts, which have the same bits and inputs."""
        if len(parts) == 1:
            return parts[0]
        zeros = [part.zeros for part in parts if part.zeros is not None]
        return cls(
            parts[0].bits,
            torch.cat([part.integers for part in parts]),
            torch.cat([part.scales for part in parts]),
            torch.cat(zeros) if zeros else None,
        )

    def values(self) -> Tensor:
        """Returns the matrix in float32."""
        centre = CENTRE if self.bits == 4 else 128
        groups = self.integers.float().sub_(centre).view(len(self.integers), -1, GROUP)
        groups = groups * self.scales.float().unsqueeze(2)
        if self.zeros is not None:
            groups = groups + self.zeros.float().unsqueeze(2)
        return groups.flatten(1)


def in_steps(zeros: Tensor, scales: Tensor) -> Tensor:
    """Returns the nearest sixteenths of the scales, and the same zero where int8 has no room for it."""
    steps = (zeros / scales).mul_(_STEPS).round_()
    return torch.where(steps.abs() <= _MOST_STEPS, steps * scales / _STEPS, zeros)


def zero_steps(scales: Tensor, zeros: Tensor) -> Tensor | None:
    """Returns the zeros in sixteenths of the scales, in int8; None unless each is exactly that."""
    steps = (zeros / scales).mul_(_STEPS).nan_to_num_().round_().clamp_(-_MOST_STEPS, _MOST_STEPS)
    return steps.to(torch.int8) if torch.equal(steps * scales / _STEPS, zeros) else None
