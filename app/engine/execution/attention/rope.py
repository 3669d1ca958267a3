"""Rotary cosines and sines of a pass's rows, looked up in a table instead of computed in every step."""

from typing import Any

import torch
from torch import Tensor, nn

from app.engine.device import on_device

# Cosines, and sines whose first half is negative: both broadcast to heads `[1, rows, heads, dim]`.
Rope = tuple[Tensor, Tensor]

_BY_POSITION = ("default", "linear", "llama3", "yarn")  # other kinds of rope also depend on a pass's length
_FIRST_LENGTH = 1024  # positions


class RopeTable:
    """`rotary` is the module of transformers that computes cosines and sines."""

    def __init__(self, rotary: nn.Module) -> None:
        self._rotary: Any = rotary  # each architecture has its own class
        self.is_fixed = getattr(rotary, "rope_type", None) in _BY_POSITION  # whether `up_to` may be called
        self._table: Tensor | None = None  # `[positions, 2, 1, dim]`

    def rows(self, positions: list[int], hidden: Tensor) -> Rope:
        """Returns the rope of rows at these positions, in the dtype and on the device of `hidden`."""
        if not self.is_fixed:
            return rope_of(*self._rotary(hidden, on_device([positions], hidden.device)))
        indices = on_device(positions, hidden.device)
        cos, signed_sin = self.up_to(max(positions), hidden).index_select(0, indices).unbind(1)
        return cos, signed_sin

    def up_to(self, position: int, hidden: Tensor) -> Tensor:
        """Returns the table `[positions, 2, 1, dim]` of a rope that `is_fixed`, cosines before signed sines.

        It is extended to at least twice its length if it lacks the position.
        """
        if self._table is None or position >= len(self._table):
            known = 0 if self._table is None else len(self._table)
            length = max(position + 1, 2 * known, _FIRST_LENGTH)
            positions = torch.arange(length, device=hidden.device).unsqueeze(0)
            parts = [part[0] for part in rope_of(*self._rotary(hidden, positions))]
            self._table = torch.stack(parts, dim=1).contiguous()
        return self._table


def rope_of(cos: Tensor, sin: Tensor) -> Rope:
    """Returns the rope of rows whose cosines and sines are `[1, rows, dim]`."""
    first, second = sin.chunk(2, dim=-1)
    return cos.unsqueeze(2), torch.cat((-first, second), dim=-1).unsqueeze(2)
