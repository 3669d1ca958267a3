"""Stores the keys and values of all slots in one tensor per layer, so that one kernel reaches every sequence.

GPUs use it, because CUDA graphs need tensors that do not move. The pool grows on demand, up to a limit. Its
first positions belong to no slot: see ZERO_POSITION and PADDING_POSITION.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from app.engine.kv.free_list import FreeList
from app.engine.kv.slot import Slot

_log = logging.getLogger(__name__)

ZERO_POSITION = 0  # always zero; rows read it in place of positions that are hidden from them
PADDING_POSITION = 1  # read and written by the rows that pad a pass to its fixed shape
_RESERVED = 2
_INITIAL_TOKENS = 8192  # positions, at least
_GATHERED = 8192  # positions that compaction copies at a time
_INITIAL_SHARE = 8  # of the limit, the pool begins with one part in so many


@dataclass(slots=True, eq=False, kw_only=True)
class PooledSlot(Slot):
    """Positions `start` to `start + capacity` of a pool."""

    pool: "KVPool"
    start: int

    def _stored(self, layer: int, pairs: Tensor) -> Tensor:
        return self.pool.layer(layer, pairs).narrow(3, self.start, self.capacity)

    def nbytes(self) -> int:
        return sum(self.pool.position_bytes) * self.capacity


def pool_for(device: torch.device, limit: int) -> "KVPool | None":
    """Returns a pool if the device profits from one; None if each slot should have its own tensors."""
    first = max(_INITIAL_TOKENS, limit // _INITIAL_SHARE)
    return KVPool(limit, first) if device.type == "cuda" else None


class KVPool:
    """A KVAllocator whose slots have at most `limit` positions in total."""

    def __init__(self, limit: int, first: int = _INITIAL_TOKENS) -> None:
        self._limit = limit
        self._size = min(first, limit)
        self._layers: dict[int, Tensor] = {}
        self._slots: dict[PooledSlot, None] = {}
        self._free = FreeList()
        self._free.give(_RESERVED, self._size)
        self.moves = 0  # how often a tensor was replaced by a larger one

    @property
    def size(self) -> int:
        """The number of positions that slots can have before the pool must grow."""
        return self._size

    @property
    def slots(self) -> list[PooledSlot]:
        return list(self._slots)

    @property
    def position_bytes(self) -> list[int]:
        """The bytes of one position in each layer that was written to."""
        return [tensor.nbytes // tensor.shape[3] for tensor in self._layers.values()]

    def layer(self, layer: int, pairs: Tensor) -> Tensor:
        """Returns the layer's tensor `[2, 1, kv_heads, positions, dim]`, for keys and values like `pairs`."""
        if layer not in self._layers:
            # Zeros, because hidden positions take part in products, and NaN would spread through them.
            shape = (*pairs.shape[:3], _RESERVED + self._size, pairs.shape[4])
            with torch.inference_mode(False):  # slots are also moved outside forward passes
                self._layers[layer] = pairs.new_zeros(shape)
        return self._layers[layer]

    def start(self, slot: Slot) -> int:
        """Returns the position where a slot starts, which is valid until another slot is made or resized."""
        assert isinstance(slot, PooledSlot)
        return slot.start

    def new(self, capacity: int, scope: str = "") -> PooledSlot:
        slot = PooledSlot(capacity, scope, pool=self, start=self._take(capacity))
        self._slots[slot] = None
        return slot

    def copy(self, slot: Slot, length: int, capacity: int) -> PooledSlot:
        assert isinstance(slot, PooledSlot)
        copy = self.new(capacity, slot.scope)
        copy.draft_computed = min(slot.draft_computed, length)
        for tensor in self._layers.values():
            _move(tensor, slot.start, copy.start, length)
        return copy

    def resize(self, slot: Slot, length: int, capacity: int) -> None:
        assert isinstance(slot, PooledSlot)
        more = capacity - slot.capacity
        if more <= 0:
            self._free.give(slot.start + capacity, -more)
        elif not self._free.take_at(slot.start + slot.capacity, more):
            self._relocate(slot, length, capacity)
        slot.capacity = capacity

    def drop(self, slot: Slot) -> None:
        assert isinstance(slot, PooledSlot)
        del self._slots[slot]
        self._free.give(slot.start, slot.capacity)

    def check_integrity(self) -> None:
        """Assert what must hold between steps; for tests."""
        taken = sorted((slot.start, slot.start + slot.capacity) for slot in self._slots)
        assert all(stop <= start for (_, stop), (start, _) in zip(taken, taken[1:], strict=False))
        assert sum(stop - start for start, stop in taken) + self._free.total == self._size
        assert all(tensor.shape[3] >= _RESERVED + self._size for tensor in self._layers.values())
        assert all(not tensor[:, :, :, ZERO_POSITION].any() for tensor in self._layers.values())

    def _relocate(self, slot: PooledSlot, length: int, capacity: int) -> None:
        """Move the slot to a range of `capacity` positions."""
        start = self._free.take(capacity)
        if start is None and self._grows_for(capacity, capacity - slot.capacity):
            start = self._free.take(capacity)
        if start is None:
            self._relocate_after_compaction(slot, length, capacity)
            return
        for tensor in self._layers.values():
            _move(tensor, slot.start, start, length)
        self._free.give(slot.start, slot.capacity)
        slot.start = start

    def _relocate_after_compaction(self, slot: PooledSlot, length: int, capacity: int) -> None:
        """Move the slot if no free range is large enough: set its values aside, and merge its range and all
        gaps into one."""
        kept = [tensor.narrow(3, slot.start, length).clone() for tensor in self._layers.values()]
        self.drop(slot)
        slot.start = self._take(capacity)
        self._slots[slot] = None
        for tensor, values in zip(self._layers.values(), kept, strict=True):
            tensor.narrow(3, slot.start, length).copy_(values)

    def _take(self, length: int) -> int:
        start = self._free.take(length)
        if start is None and self._grows_for(length):
            start = self._free.take(length)
        if start is None:
            self._compact()
            start = self._free.take(length)
        assert start is not None, "the cache asks for no more than the limit"
        return start

    def _grows_for(self, length: int, needed: int | None = None) -> bool:
        """Grow if the limit allows it, because compaction moves every slot. Returns whether it did.

        If the device lacks memory, that is an error only if fewer than `needed` positions are free.
        """
        if self._size == self._limit:
            return False
        try:
            self._grow(length)
        except RuntimeError:  # torch's own errors are RuntimeErrors
            if self._free.total < (length if needed is None else needed):
                raise
            return False
        return True

    def _grow(self, length: int) -> None:
        """Grow by at least `length` positions, up to the limit."""
        try:
            self._widen(min(max(2 * self._size, self._size + length), self._limit))
        except RuntimeError:  # torch's own errors are RuntimeErrors
            self._widen(min(self._size + length, self._limit))

    def _widen(self, size: int) -> None:
        """Widen one layer after the other, so that only one tensor exists twice."""
        for layer, tensor in self._layers.items():
            if tensor.shape[3] < _RESERVED + size:  # an earlier attempt may have widened this layer
                self._layers[layer] = _enlarge(tensor, _RESERVED + size)
                self.moves += 1
        self._free.give(_RESERVED + self._size, size - self._size)
        self._size = size
        _log.info("the KV pool now has room for %d tokens", size)

    def _compact(self) -> None:
        """Move all slots to the front, so that the free positions form one range."""
        slots = sorted(self._slots, key=lambda slot: slot.start)
        places = [np.arange(slot.start, slot.start + slot.capacity) for slot in slots]
        if places:
            _gather(list(self._layers.values()), np.concatenate(places), _RESERVED)
        next_start = _RESERVED
        for slot in slots:
            slot.start = next_start
            next_start += slot.capacity
        self._free = FreeList()
        self._free.give(next_start, _RESERVED + self._size - next_start)


def _enlarge(tensor: Tensor, positions: int) -> Tensor:
    wider = tensor.new_zeros((*tensor.shape[:3], positions, tensor.shape[4]))
    wider.narrow(3, 0, tensor.shape[3]).copy_(tensor)
    return wider


def _move(tensor: Tensor, source: int, target: int, length: int) -> None:
    """Copy positions. The two ranges must not overlap."""
    tensor.narrow(3, target, length).copy_(tensor.narrow(3, source, length))


def _gather(tensors: Sequence[Tensor], places: NDArray[np.int64], target: int) -> None:
    """Copy these ascending positions to those from `target` on, which is not above the first of them.

    It takes two operations for many positions, because a few for every slot would take long. All memory that
    it needs is allocated before anything moves.
    """
    if not tensors:
        return
    indices, count = torch.from_numpy(places).to(tensors[0].device), min(len(places), _GATHERED)
    sizes = [prod(tensor.shape[:3]) * tensor.shape[4] * tensor.element_size() for tensor in tensors]
    buffer = tensors[0].new_empty(max(sizes) * count, dtype=torch.uint8)
    for tensor, size in zip(tensors, sizes, strict=True):
        for begin in range(0, len(places), _GATHERED):
            block = indices[begin : begin + _GATHERED]
            shape = (*tensor.shape[:3], len(block), tensor.shape[4])
            values = buffer[: size * len(block)].view(tensor.dtype).view(shape)
            torch.index_select(tensor, 3, block, out=values)
            tensor.narrow(3, target + begin, len(block)).copy_(values)
