"""Attention for decode steps: every row is one token of a sequence, and all rows attend in the same calls.

Two passes of the same shape differ only in the values of tensors, so that a CUDA graph can be replayed.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from app.engine.execution.attention.interface import (
    AttentionBatch,
    LayerAttention,
    additive_mask,
    attend_one,
)
from app.engine.kv.pool import ZERO_POSITION, KVPool


@dataclass(slots=True)
class DecodeAttention(AttentionBatch):
    """`slot_starts[i]` is where the slot of row i's sequence starts in the pool, and `positions[i]` the token
    position of row i, below `length`. Both are `[rows]`; several rows may belong to one sequence."""

    pool: KVPool
    slot_starts: Tensor
    positions: Tensor
    length: int
    write_indices: Tensor = field(init=False)  # `[rows]`: the pool position that each row writes
    read_indices: Tensor = field(init=False)  # `[rows * length]`: the pool positions that the rows read

    def __post_init__(self) -> None:
        self.write_indices = self.slot_starts + self.positions
        # Hidden positions may hold NaN, so rows read a position that is always zero instead.
        indices = self.slot_starts.unsqueeze(1) + self._columns()
        self.read_indices = indices.masked_fill_(self._is_later(), ZERO_POSITION).flatten()

    def attend(self, layer: LayerAttention, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        pairs = torch.stack((key, value))
        stored = self.pool.layer(layer.index, pairs)
        stored.index_copy_(3, self.write_indices, pairs)  # all rows write before any row reads
        shape = (2, stored.shape[2], -1, self.length, stored.shape[4])
        gathered = stored.index_select(3, self.read_indices).view(shape)
        keys, values = gathered.transpose(1, 2).unbind(0)  # `[rows, kv_heads, length, dim]`
        return attend_one(layer, query.transpose(0, 2), keys, values, self._mask(layer.window, query))

    def _mask(self, window: int | None, query: Tensor) -> Tensor:
        """Returns `[rows, 1, 1, length]`. It is computed once per pass for all layers with this window."""
        key = (0, window)
        if key not in self.masks:
            hidden = self._is_later()
            if window is not None:
                hidden |= self._columns() <= self.positions.unsqueeze(1) - window
            self.masks[key] = additive_mask(hidden, query)[:, None, None, :]
        return self.masks[key]

    def _columns(self) -> Tensor:
        return torch.arange(self.length, device=self.positions.device).unsqueeze(0)

    def _is_later(self) -> Tensor:
        """Returns `[rows, length]`: whether a position is after the row's own."""
        return self._columns() > self.positions.unsqueeze(1)
