"""Owns keys and values: one slot per sequence, kept after its end until the byte budget needs the room.

A new sequence takes over, or copies, the longest prefix that a slot of its own scope shares with it.
Knows token ids and tensors; nothing of requests' text, order or sampling.
"""

import numpy as np

from app.engine.kv.slot import Ids, KVAllocator, PerSlotAllocator, Slot
from app.engine.scheduler import TokenSequence

_GRAIN = 64  # tokens; slots grow by multiples of it
_EXPENDABLE_TAIL = 16  # tokens; a finished slot that differs only here is taken over, not copied


class KVCache:
    """The memory of the scheduler. `budget_bytes` holds at least one sequence of `max_tokens` ids."""

    def __init__(
        self, *, budget_bytes: int, bytes_per_token: int, max_tokens: int, store: KVAllocator | None = None
    ) -> None:
        assert budget_bytes >= bytes_per_token * max_tokens
        self._budget = budget_bytes // bytes_per_token  # in tokens from here on
        self._bytes_per_token = bytes_per_token
        self._max_tokens = max_tokens
        self._store = PerSlotAllocator() if store is None else store
        self._active: list[TokenSequence] = []
        self._finished: list[Slot] = []  # least recently used first

    @property
    def used_bytes(self) -> int:
        return (self._active_tokens() + self._finished_tokens()) * self._bytes_per_token

    def attach(self, sequence: TokenSequence) -> bool:
        """See scheduler.Memory. The last id is always left to compute: its logits are wanted."""
        capacity = self._capacity_for(len(sequence.ids))
        if self._active_tokens() + capacity > self._budget:
            return False
        ids = np.array(sequence.ids, np.int64)
        donor, shared = self._longest_prefix(ids, sequence.scope)
        sequence.slot = self._slot_from(donor, shared, capacity, sequence.scope)
        sequence.slot.ids = ids
        sequence.slot.drafted = min(sequence.slot.drafted, shared)
        sequence.computed = shared
        if sequence.cached is None:
            sequence.cached = shared
        self._active.append(sequence)
        return True

    def extend(self, sequence: TokenSequence) -> bool:
        slot, needed = sequence.slot, len(sequence.ids) + len(sequence.guess)
        if needed <= slot.capacity:
            return True
        room = self._budget - self._active_tokens() + slot.capacity
        wished, least = self._capacity_for(needed + needed // 4), self._capacity_for(needed)
        capacity = wished if wished <= room else least
        if capacity > room:
            return False
        self._evict_for(capacity - slot.capacity)
        self._store.resize(slot, sequence.computed, capacity)
        return True

    def release(self, sequence: TokenSequence) -> None:
        slot = self._detach(sequence)
        if sequence.computed > 0:
            slot.ids = np.array(sequence.ids[: sequence.computed], np.int64)
            self._finished.append(slot)
        else:
            self._store.drop(slot)

    def discard(self, sequence: TokenSequence) -> None:
        self._store.drop(self._detach(sequence))
        sequence.computed = 0

    def forget_finished(self) -> None:
        """Give back all memory that no running sequence needs."""
        while self._finished:
            self._store.drop(self._finished.pop())

    def check_integrity(self) -> None:
        """Assert what must hold between steps; for tests and for idle moments."""
        assert self._active_tokens() + self._finished_tokens() <= self._budget
        assert all(len(slot.ids) <= slot.capacity for slot in self._finished)
        slots = [sequence.slot for sequence in self._active] + self._finished
        assert len({id(slot) for slot in slots}) == len(slots)
        for slot in slots:
            assert slot.nbytes() <= slot.capacity * self._bytes_per_token
            assert slot.drafted <= len(slot.ids) or slot not in self._finished

    def _detach(self, sequence: TokenSequence) -> Slot:
        slot: Slot = sequence.slot
        self._active.remove(sequence)
        sequence.slot = None
        return slot

    def _capacity_for(self, tokens: int) -> int:
        return min(-(-tokens // _GRAIN) * _GRAIN, self._max_tokens)

    def _active_tokens(self) -> int:
        return sum(sequence.slot.capacity for sequence in self._active)

    def _finished_tokens(self) -> int:
        return sum(slot.capacity for slot in self._finished)

    def _longest_prefix(self, ids: Ids, scope: str) -> tuple[Slot | None, int]:
        """The slot of this scope that shares most leading ids, and how many; the newest among equals."""
        known = [(slot, len(slot.ids)) for slot in self._finished if slot.scope == scope]
        known += [(other.slot, other.computed) for other in self._active if other.scope == scope]
        best: tuple[Slot | None, int] = (None, 0)
        for slot, length in known:
            shared = _common_prefix(slot.ids[:length], ids[:-1])
            if shared > 0 and shared >= best[1]:
                best = (slot, shared)
        return best

    def _slot_from(self, donor: Slot | None, shared: int, capacity: int, scope: str) -> Slot:
        if donor is None:
            self._evict_for(capacity)
            return self._store.new(capacity, scope)
        if donor in self._finished:
            self._finished.remove(donor)
            if not self._is_worth_keeping(donor, shared, capacity):
                return self._taken_over(donor, shared, capacity)
            self._finished.append(donor)  # now the most recently used, so the last to be evicted
        self._evict_for(capacity)
        return self._store.copy(donor, shared, capacity)

    def _is_worth_keeping(self, donor: Slot, shared: int, capacity: int) -> bool:
        """Whether the donor holds more than the newcomer takes, and both fit."""
        fits = self._active_tokens() + donor.capacity + capacity <= self._budget
        return fits and len(donor.ids) - shared > _EXPENDABLE_TAIL

    def _taken_over(self, donor: Slot, shared: int, capacity: int) -> Slot:
        try:
            self._make_fit(donor, shared, capacity)
        except (RuntimeError, MemoryError):  # torch's own is a RuntimeError
            self._store.drop(donor)  # nobody else has it any more
            raise
        return donor

    def _make_fit(self, donor: Slot, shared: int, capacity: int) -> None:
        if donor.capacity < capacity or self._active_tokens() + donor.capacity > self._budget:
            self._evict_for(capacity)
            self._store.resize(donor, shared, capacity)
        else:
            self._evict_for(donor.capacity)

    def _evict_for(self, tokens: int) -> None:
        """Drop finished slots, least recently used first, until `tokens` more fit."""
        while self._finished and self._active_tokens() + self._finished_tokens() + tokens > self._budget:
            self._store.drop(self._finished.pop(0))


def _common_prefix(first: Ids, second: Ids) -> int:
    length = min(len(first), len(second))
    different = np.flatnonzero(first[:length] != second[:length])
    return int(different[0]) if len(different) else length
