"""Keeps keys and values within a byte budget: one slot per sequence, which later prompts can reuse.

A new sequence takes over or copies the slot that shares the longest prefix with it in its scope. The slots of
finished sequences are evicted, least recently used first, when running sequences need the room.
"""

from collections import OrderedDict

import numpy as np

from app.engine.kv.prefix_index import Ids, PrefixIndex
from app.engine.kv.slot import KVAllocator, PerSlotAllocator, Slot
from app.engine.scheduling.sequence import TokenSequence

_BLOCK = 64  # tokens; capacities are multiples of it
_EXPENDABLE_TAIL = 16  # tokens; a finished slot with at most this many beyond the prefix is taken over


class KVCache:
    """The scheduler's KVMemory. `budget_bytes` must hold at least one sequence of `max_tokens` ids.

    Internally the budget and all capacities are in tokens.
    """

    def __init__(
        self,
        *,
        budget_bytes: int,
        bytes_per_token: int,
        max_tokens: int,
        allocator: KVAllocator | None = None,
    ) -> None:
        assert budget_bytes >= bytes_per_token * max_tokens
        self._budget = budget_bytes // bytes_per_token
        self._bytes_per_token = bytes_per_token
        self._max_tokens = max_tokens
        self._allocator = PerSlotAllocator() if allocator is None else allocator
        self._index: PrefixIndex[Slot] = PrefixIndex()
        self._active: dict[TokenSequence, Ids] = {}  # with the ids of each when it was attached
        self._prefilling: dict[TokenSequence, None] = {}  # active sequences that are not fully indexed yet
        self._finished: OrderedDict[Slot, None] = OrderedDict()  # least recently used first
        self._active_tokens = 0
        self._finished_tokens = 0

    @property
    def used_bytes(self) -> int:
        return (self._active_tokens + self._finished_tokens) * self._bytes_per_token

    @property
    def finished_slots(self) -> list[Slot]:
        """The slots kept for later prompts, least recently used first."""
        return list(self._finished)

    def attach(self, sequence: TokenSequence) -> bool:
        """See KVMemory. The last id always stays pending, because its logits are needed."""
        capacity = self._capacity_for(len(sequence.ids))
        if self._active_tokens + capacity > self._budget:
            return False
        self._index_prefills()
        ids = np.array(sequence.ids, np.int64)
        usable = ids[:0] if sequence.needs_all_logits else ids[:-1]
        donor, shared = self._index.longest_prefix(usable, sequence.scope)
        slot = self._slot_from(donor, shared, capacity, sequence.scope)
        slot.draft_computed = min(slot.draft_computed, shared)
        sequence.attach(slot, computed=shared)
        self._active[sequence] = ids
        self._prefilling[sequence] = None
        self._active_tokens += slot.capacity
        return True

    def extend(self, sequence: TokenSequence) -> bool:
        """See KVMemory. The slot grows by a quarter more than it needs, if there is room."""
        slot, needed = sequence.slot, len(sequence.ids) + len(sequence.draft_ids)
        if needed <= slot.capacity:
            return True
        room = self._budget - self._active_tokens + slot.capacity
        generous, least = self._capacity_for(needed + needed // 4), self._capacity_for(needed)
        capacity = generous if generous <= room else least
        if capacity > room:
            return False
        more = capacity - slot.capacity
        self._evict_for(more)
        self._allocator.resize(slot, sequence.computed, capacity)
        self._active_tokens += more
        return True

    def chunk_size(self, sequence: TokenSequence, budget: int) -> int:
        """See KVMemory."""
        return min(sequence.longest_chunk, budget)

    def release(self, sequence: TokenSequence) -> None:
        """See KVMemory. Of two slots of which one holds all ids of the other, only that one is kept."""
        slot = self._detach(sequence)
        if sequence.computed == 0 or not sequence.is_kept:
            self._allocator.drop(slot)
            return
        slot.tokens = sequence.computed
        self._index.put(slot, np.array(sequence.ids[: slot.tokens], np.int64))
        longer = next((it for it in self._index.continuations_of(slot) if it in self._finished), None)
        if longer is not None:
            self._finished.move_to_end(longer)
            self._index.remove(slot)
            self._allocator.drop(slot)
            return
        for shorter in self._index.contained_in(slot):
            if shorter in self._finished:
                self._evict(shorter)
        self._keep(slot)

    def discard(self, sequence: TokenSequence) -> None:
        self._allocator.drop(self._detach(sequence))
        sequence.rewind()

    def forget_finished(self) -> None:
        """Drop every slot that no running sequence uses."""
        while self._finished:
            self._evict(next(iter(self._finished)))

    def check_integrity(self) -> None:
        """Assert what must hold between steps; for tests."""
        active = [sequence.slot for sequence in self._active]
        slots = [*active, *self._finished]
        assert self._active_tokens == sum(slot.capacity for slot in active)
        assert self._finished_tokens == sum(slot.capacity for slot in self._finished)
        assert self._active_tokens + self._finished_tokens <= self._budget
        assert len(set(slots)) == len(slots)
        assert all(0 < slot.tokens <= slot.capacity for slot in self._finished)
        assert all(slot.draft_computed <= slot.tokens for slot in self._finished)
        assert all(slot.nbytes() <= slot.capacity * self._bytes_per_token for slot in slots)
        self._index.check_integrity()
        assert len(self._finished) <= len(self._index) <= len(slots)

    def _capacity_for(self, tokens: int) -> int:
        return min(-(-tokens // _BLOCK) * _BLOCK, self._max_tokens)

    def _index_prefills(self) -> None:
        """Add to the index the ids that running sequences have computed of their prompts."""
        for sequence in list(self._prefilling):
            ids = self._active[sequence]
            computed = min(sequence.computed, len(ids))
            if computed > 0:
                self._index.put(sequence.slot, ids[:computed])
            if computed == len(ids):
                del self._prefilling[sequence]

    def _detach(self, sequence: TokenSequence) -> Slot:
        del self._active[sequence]
        self._prefilling.pop(sequence, None)
        slot = sequence.detach()
        self._active_tokens -= slot.capacity
        self._index.remove(slot)
        return slot

    def _slot_from(self, donor: Slot | None, shared: int, capacity: int, scope: str) -> Slot:
        if donor is None:
            self._evict_for(capacity)
            return self._allocator.new(capacity, scope)
        if donor in self._finished:
            if not self._is_worth_keeping(donor, shared, capacity):
                return self._take_over(donor, shared, capacity)
            self._finished.move_to_end(donor)  # the most recently used slot is evicted last
        self._evict_for(capacity)
        return self._allocator.copy(donor, shared, capacity)

    def _is_worth_keeping(self, donor: Slot, shared: int, capacity: int) -> bool:
        """Returns whether the donor holds more than the new sequence needs, and there is room for both."""
        has_room = self._active_tokens + donor.capacity + capacity <= self._budget
        return has_room and donor.tokens - shared > _EXPENDABLE_TAIL

    def _take_over(self, donor: Slot, shared: int, capacity: int) -> Slot:
        self._forget(donor)
        try:
            self._fit(donor, shared, capacity)
        except (RuntimeError, MemoryError):  # torch's out-of-memory error is a RuntimeError
            self._allocator.drop(donor)  # the cache no longer refers to it
            raise
        return donor

    def _fit(self, donor: Slot, shared: int, capacity: int) -> None:
        """Give the donor at least this capacity. The capacity that it has is within the budget already."""
        if donor.capacity < capacity:
            self._evict_for(capacity)
            self._allocator.resize(donor, shared, capacity)

    def _keep(self, slot: Slot) -> None:
        self._finished[slot] = None
        self._finished_tokens += slot.capacity

    def _forget(self, slot: Slot) -> None:
        del self._finished[slot]
        self._finished_tokens -= slot.capacity
        self._index.remove(slot)

    def _evict_for(self, tokens: int) -> None:
        """Drop finished slots, least recently used first, until `tokens` more fit."""
        while self._finished and self._active_tokens + self._finished_tokens + tokens > self._budget:
            self._evict(next(iter(self._finished)))

    def _evict(self, slot: Slot) -> None:
        self._forget(slot)
        self._allocator.drop(slot)
