"""Owns one stretch of memory for the keys and values of all slots, so that one kernel reaches every sequence.

For a GPU, where recorded passes want tensors that stay where they are. It grows with what is used, up to a
limit. Its first positions are no slot's: see `NOTHING` and `SCRATCH`.
"""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor

from app.engine.kv.free_list import FreeList
from app.engine.kv.slot import Slot

_log = logging.getLogger(__name__)

NOTHING = 0  # stays zero: what a row reads in place of what it must not see
SCRATCH = 1  # where rows that only fill a pass up write and read
_RESERVED = 2
_FIRST_TOKENS = 8192  # positions that it begins with


@dataclass(slots=True, eq=False, kw_only=True)
class PooledSlot(Slot):
    """Positions `start` to `start + capacity` of an arena."""

    arena: "KVPool"
    start: int

    def _whole(self, layer: int, pairs: Tensor) -> Tensor:
        return self.arena.layer(layer, pairs).narrow(3, self.start, self.capacity)

    def nbytes(self) -> int:
        return sum(self.arena.position_bytes) * self.capacity


def pool_for(device: torch.device, limit: int) -> "KVPool | None":
    """Where this device gains by it; None where slots have tensors of their own."""
    return KVPool(limit) if device.type == "cuda" else None


class KVPool:
    """A store of slots (slots.Store). `limit` is how many positions all its slots may have together."""

    def __init__(self, limit: int, first: int = _FIRST_TOKENS) -> None:
        self._limit = limit
        self._size = min(first, limit)
        self._layers: dict[int, Tensor] = {}
        self._slots: list[PooledSlot] = []
        self._free = FreeList()
        self._free.give(_RESERVED, self._size)
        self.moves = 0  # how often its tensors were replaced by others

    @property
    def position_bytes(self) -> list[int]:
        """Of one position, in each layer that was written to."""
        return [tensor.nbytes // tensor.shape[3] for tensor in self._layers.values()]

    def layer(self, layer: int, pairs: Tensor) -> Tensor:
        """`[2, 1, kv_heads, positions, dim]`, for keys and values of the form of `pairs`."""
        if layer not in self._layers:
            # Zeros: what is not seen still takes part in products, where it must be a number.
            shape = (*pairs.shape[:3], _RESERVED + self._size, pairs.shape[4])
            with torch.inference_mode(False):  # slots are moved between passes, too
                self._layers[layer] = pairs.new_zeros(shape)
        return self._layers[layer]

    def place(self, slot: Slot) -> int:
        """Where a slot of this arena begins, until the next one is made or resized."""
        assert isinstance(slot, PooledSlot)
        return slot.start

    def new(self, capacity: int, scope: str = "") -> PooledSlot:
        slot = PooledSlot(capacity, scope, arena=self, start=self._take(capacity))
        self._slots.append(slot)
        return slot

    def copy(self, slot: Slot, length: int, capacity: int) -> PooledSlot:
        assert isinstance(slot, PooledSlot)
        twin = self.new(capacity, slot.scope)
        twin.ids, twin.drafted = slot.ids[:length], slot.drafted
        for tensor in self._layers.values():
            _move(tensor, slot.start, twin.start, length)
        return twin

    def resize(self, slot: Slot, length: int, capacity: int) -> None:
        assert isinstance(slot, PooledSlot)
        more = capacity - slot.capacity
        if more <= 0:
            self._free.give(slot.start + capacity, -more)
        elif not self._free.take_at(slot.start + slot.capacity, more):
            self._move_to_wider(slot, length, capacity)
        slot.capacity = capacity

    def drop(self, slot: Slot) -> None:
        assert isinstance(slot, PooledSlot)
        self._slots.remove(slot)
        self._free.give(slot.start, slot.capacity)

    def check_integrity(self) -> None:
        """Assert what must hold between steps; for tests."""
        taken = sorted((slot.start, slot.start + slot.capacity) for slot in self._slots)
        assert all(stop <= start for (_, stop), (start, _) in zip(taken, taken[1:], strict=False))
        assert sum(stop - start for start, stop in taken) + self._free.total == self._size
        assert all(not tensor[:, :, :, NOTHING].any() for tensor in self._layers.values())

    def _move_to_wider(self, slot: PooledSlot, length: int, capacity: int) -> None:
        if self._free.total < capacity - slot.capacity:
            self._grow(capacity)
        start = self._free.take(capacity)
        if start is None:
            self._make_way(slot, length, capacity)
            return
        for tensor in self._layers.values():
            _move(tensor, slot.start, start, length)
        self._free.give(slot.start, slot.capacity)
        slot.start = start

    def _make_way(self, slot: PooledSlot, length: int, capacity: int) -> None:
        """Where a wider place is free only once the slot's own and the gaps between others are one."""
        kept = [tensor.narrow(3, slot.start, length).clone() for tensor in self._layers.values()]
        self.drop(slot)
        slot.start = self._take(capacity)
        self._slots.append(slot)
        for tensor, values in zip(self._layers.values(), kept, strict=True):
            tensor.narrow(3, slot.start, length).copy_(values)

    def _take(self, length: int) -> int:
        start = self._free.take(length)
        if start is None and self._free.total < length:
            self._grow(length)
            start = self._free.take(length)
        if start is None:
            self._compact()
            start = self._free.take(length)
        assert start is not None, "the cache asks for no more than the limit"
        return start

    def _grow(self, length: int) -> None:
        """By at least `length`, as far as the limit allows."""
        try:
            self._widen(min(max(2 * self._size, self._size + length), self._limit))
        except RuntimeError:  # torch's own is one
            self._widen(min(self._size + length, self._limit))

    def _widen(self, size: int) -> None:
        """One layer after the other, so that little is held twice."""
        for layer, tensor in self._layers.items():
            if tensor.shape[3] < _RESERVED + size:  # an earlier attempt may have come as far as this
                self._layers[layer] = _widened(tensor, _RESERVED + size)
                self.moves += 1
        self._free.give(_RESERVED + self._size, size - self._size)
        self._size = size
        _log.info("there is room for the keys and values of %d tokens", size)

    def _compact(self) -> None:
        """Every slot to the front, so that what is free is in one piece. Needs no memory."""
        self._free = FreeList()
        begin = _RESERVED
        for slot in sorted(self._slots, key=lambda slot: slot.start):
            for tensor in self._layers.values():
                _move(tensor, slot.start, begin, slot.capacity)
            slot.start = begin
            begin += slot.capacity
        self._free.give(begin, _RESERVED + self._size - begin)


def _widened(tensor: Tensor, positions: int) -> Tensor:
    wider = tensor.new_zeros((*tensor.shape[:3], positions, tensor.shape[4]))
    wider.narrow(3, 0, tensor.shape[3]).copy_(tensor)
    return wider


def _move(tensor: Tensor, source: int, target: int, length: int) -> None:
    """Positions to where others are; the two ranges may overlap where the target is the lower one."""
    if source == target:
        return
    block = source - target if source > target else length  # so much, and what is moved is not in the way
    for done in range(0, length, block):
        count = min(block, length - done)
        tensor.narrow(3, target + done, count).copy_(tensor.narrow(3, source + done, count))
