"""Owns the pass over single rows: each one token of some sequence, all of them attending in the same calls.

What differs between two such passes is in tensors alone, so that a GPU can repeat a recorded one.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from app.engine.execution.attention.interface import AttentionBatch, LayerAttention, additive, attend_one
from app.engine.kv.pool import NOTHING, KVPool


@dataclass(slots=True)
class DecodeAttention(AttentionBatch):
    """`places` `[rows]` is where each row's sequence begins in the arena, `positions` `[rows]` which of its
    tokens the row is; several rows may be of one sequence. None is at `length` or beyond it."""

    arena: KVPool
    places: Tensor
    positions: Tensor
    length: int
    written: Tensor = field(init=False)  # `[rows]`: where in the arena each row writes
    seen: Tensor = field(init=False)  # `[rows * length]`: where it reads

    def __post_init__(self) -> None:
        self.written = self.places + self.positions
        # For what a row must not see it reads nothing: whatever stands there, it may be no number.
        places = self.places.unsqueeze(1) + self._columns()
        self.seen = places.masked_fill_(self._is_later(), NOTHING).flatten()

    def attend(self, heads: LayerAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        pairs = torch.stack((key, value))
        whole = self.arena.layer(heads.layer, pairs)
        whole.index_copy_(3, self.written, pairs)  # every row's, before any of them looks
        shape = (2, whole.shape[2], -1, self.length, whole.shape[4])
        gathered = whole.index_select(3, self.seen).view(shape)
        keys, values = gathered.transpose(1, 2).unbind(0)  # `[rows, kv_heads, length, dim]`
        return attend_one(heads, query.transpose(0, 2), keys, values, self._mask(heads.window, query))

    def _mask(self, window: int | None, query: Tensor) -> Tensor:
        """`[rows, 1, 1, length]`, made once per step for all layers of a kind."""
        key = (0, window)
        if key not in self.masks:
            hidden = self._is_later()
            if window is not None:
                hidden |= self._columns() <= self.positions.unsqueeze(1) - window
            self.masks[key] = additive(hidden, query)[:, None, None, :]
        return self.masks[key]

    def _columns(self) -> Tensor:
        return torch.arange(self.length, device=self.positions.device).unsqueeze(0)

    def _is_later(self) -> Tensor:
        """Of each row and each position of its sequence, whether it is beyond the row's own."""
        return self._columns() > self.positions.unsqueeze(1)
