"""Weights as small integers in groups of 32, each group with its own scale and zero."""

from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 32  # weights with a common scale and zero
CENTRE = 8  # of unsigned 4-bit integers


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
