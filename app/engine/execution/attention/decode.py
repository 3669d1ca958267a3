"""Attention for decode steps: every row is one token of a sequence, and all rows attend in the same calls.

Two passes of the same shape differ only in the values of tensors, so that a CUDA graph can be replayed.
"""

import logging
from dataclasses import dataclass, field
from functools import cache
from importlib.util import find_spec
from typing import Protocol

import torch
from torch import Tensor

from app.engine.execution.attention.interface import (
    AttentionBatch,
    LayerAttention,
    additive_mask,
    attend_one,
)
from app.engine.kv.pool import ZERO_POSITION, KVPool

_log = logging.getLogger(__name__)


class RowKernel(Protocol):
    """Attends for all rows where their keys lie, without a copy of them."""

    def takes(self, dim: int, group: int) -> bool:
        """Returns whether it computes heads of `dim` numbers, of which `group` share a key head."""

    def attend_rows(
        self,
        layer: LayerAttention,
        query: Tensor,
        stored: Tensor,
        starts: Tensor,
        positions: Tensor,
        length: int,
    ) -> Tensor:
        """Returns `[1, rows, heads, dim]`. `query` is `[1, heads, rows, dim]`; row i attends to the first
        `positions[i] + 1` of the `stored` `[2, 1, kv_heads, positions, dim]` from `starts[i]` on. `length` is
        above all positions.
        """


@cache
def find_kernel(device: torch.device) -> RowKernel | None:
    """Returns a kernel for the device. Returns None on a CPU, without Triton, or if Triton cannot compile."""
    if device.type != "cuda" or find_spec("triton") is None:
        return None
    try:
        from app.engine.execution.attention import decode_kernel

        decode_kernel.check(device)
    except Exception:  # Triton, its compilers and the driver raise errors of many classes
        _log.warning("decoding is slower, because Triton's kernel does not run here", exc_info=True)
        return None
    return decode_kernel


@dataclass(slots=True)
class DecodeAttention(AttentionBatch):
    """`slot_starts[i]` is where the slot of row i's sequence starts in the pool, and `positions[i]` the token
    position of row i, below `length`. Both are `[rows]`; several rows may belong to one sequence."""

    pool: KVPool
    slot_starts: Tensor
    positions: Tensor
    length: int
    kernel: RowKernel | None = None
    write_indices: Tensor = field(init=False)  # `[rows]`: the pool position that each row writes
    copy_indices: Tensor | None = None  # `[rows * length]`: the pool positions that the rows read

    def __post_init__(self) -> None:
        self.write_indices = self.slot_starts + self.positions

    def attend(self, layer: LayerAttention, query: Tensor, pairs: Tensor) -> Tensor:
        stored = self.pool.layer(self.first_layer + layer.index, pairs)
        stored.index_copy_(3, self.write_indices, pairs)  # all rows write before any row reads
        group, dim = query.shape[1] // pairs.shape[2], query.shape[3]
        if self.kernel is not None and layer.sinks is None and self.kernel.takes(dim, group):
            return self.kernel.attend_rows(
                layer, query, stored, self.slot_starts, self.positions, self.length
            )
        shape = (2, stored.shape[2], -1, self.length, stored.shape[4])
        gathered = stored.index_select(3, self._copied()).view(shape)
        keys, values = gathered.transpose(1, 2).unbind(0)  # `[rows, kv_heads, length, dim]`
        return attend_one(layer, query.transpose(0, 2), keys, values, self._mask(layer.window, query))

    def _copied(self) -> Tensor:
        """Returns `copy_indices`, computed once per pass."""
        if self.copy_indices is None:
            # Hidden positions may hold NaN, so rows read a position that is always zero instead.
            indices = self.slot_starts.unsqueeze(1) + self._columns()
            self.copy_indices = indices.masked_fill_(self._is_later(), ZERO_POSITION).flatten()
        return self.copy_indices

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
