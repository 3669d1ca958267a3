"""Whatever sequences come and go, the cache stays within its budget and evicts no slot without need."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.engine.kv.prefix_cache import KVCache
from app.engine.kv.prefix_index import common_prefix
from app.engine.kv.slot import PerSlotAllocator, Slot
from app.engine.scheduling.sequence import TokenSequence

BYTES_PER_TOKEN = 3
MAX_TOKENS = 200
BLOCK = 64
any_sequence = st.integers(0, 99)  # of the active ones, counted round and round
few_ids = st.lists(st.integers(0, 1), min_size=1, max_size=40)
prompts = st.tuples(few_ids, st.sampled_from([1, 2, 4])).map(lambda pair: pair[0] * pair[1])


class CheckedAllocator(PerSlotAllocator):
    """Asserts that no slot is used after it was dropped, and that all together fit into the budget."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.slots: set[Slot] = set()

    def new(self, capacity: int, scope: str = "") -> Slot:
        return self._added(super().new(capacity, scope))

    def copy(self, slot: Slot, length: int, capacity: int) -> Slot:
        assert slot in self.slots, "a dropped slot is copied"
        return self._added(super().copy(slot, length, capacity))

    def resize(self, slot: Slot, length: int, capacity: int) -> None:
        assert slot in self.slots, "a dropped slot is resized"
        super().resize(slot, length, capacity)
        self._added(slot)

    def drop(self, slot: Slot) -> None:
        self.slots.remove(slot)
        super().drop(slot)

    def _added(self, slot: Slot) -> Slot:
        self.slots.add(slot)
        assert sum(each.capacity for each in self.slots) <= self.budget, "beyond the budget"
        return slot


class CacheUse(RuleBasedStateMachine):
    """Remembers the ids in each slot, and compares every look-up with all of them."""

    @initialize(budget=st.integers(MAX_TOKENS, 3 * MAX_TOKENS))
    def start(self, budget: int) -> None:
        self.budget = budget
        self.allocator = CheckedAllocator(budget)
        self.cache = KVCache(
            budget_bytes=budget * BYTES_PER_TOKEN,
            bytes_per_token=BYTES_PER_TOKEN,
            max_tokens=MAX_TOKENS,
            allocator=self.allocator,
        )
        self.active: dict[TokenSequence, int] = {}  # with the number of ids when it was attached
        self.held: dict[Slot, list[int]] = {}  # ids in finished slots

    @rule(ids=prompts, scope=st.sampled_from("ab"))
    def attach(self, ids: list[int], scope: str) -> None:
        sequence, longest = TokenSequence("a", ids, scope), self.longest_prefix(ids[:-1], scope)
        with self.only_needed_evictions(sequence):
            is_attached = self.cache.attach(sequence)
        if is_attached:
            self.active[sequence] = len(ids)
            assert sequence.computed == sequence.cached == longest
        else:
            assert self.active_tokens() + least_capacity(ids) > self.budget, "there was room"

    @precondition(lambda self: self.active)
    @rule(number=any_sequence, count=st.integers(1, 100))
    def compute(self, number: int, count: int) -> None:
        sequence = self.pick(number)
        sequence.advance(min(count, sequence.pending))

    @precondition(lambda self: self.active)
    @rule(number=any_sequence, ids=few_ids)
    def reply(self, number: int, ids: list[int]) -> None:
        sequence = self.pick(number)
        sequence.accept(ids[: MAX_TOKENS - len(sequence.ids)])
        with self.only_needed_evictions(sequence):
            has_room = self.cache.extend(sequence)
        if has_room:
            assert sequence.slot.capacity >= len(sequence.ids)
        else:
            others = self.active_tokens() - sequence.slot.capacity
            assert others + least_capacity(sequence.ids) > self.budget, "there was room"
            self.discard(number)

    @precondition(lambda self: self.active)
    @rule(number=any_sequence)
    def release(self, number: int) -> None:
        sequence = self.pick(number)
        slot = sequence.slot
        self.cache.release(sequence)
        del self.active[sequence]
        if sequence.computed > 0:
            self.keep(slot, list(sequence.ids[: sequence.computed]))

    @precondition(lambda self: self.active)
    @rule(number=any_sequence)
    def discard(self, number: int) -> None:
        sequence = self.pick(number)
        self.cache.discard(sequence)
        del self.active[sequence]

    @rule()
    def forget_finished(self) -> None:
        self.cache.forget_finished()
        self.held.clear()

    @invariant()
    def is_within_the_budget(self) -> None:
        if hasattr(self, "cache"):
            self.cache.check_integrity()
            assert self.cache.used_bytes <= self.budget * BYTES_PER_TOKEN
            assert set(self.cache.finished_slots) == set(self.held)
            assert self.allocator.slots == {*self.held, *(each.slot for each in self.active)}

    def active_tokens(self) -> int:
        return sum(sequence.slot.capacity for sequence in self.active)

    def pick(self, number: int) -> TokenSequence:
        return list(self.active)[number % len(self.active)]

    def keep(self, slot: Slot, ids: list[int]) -> None:
        """Of slots that hold the same ids, or the beginning of another's, only the other is kept."""
        same_scope = {other: held for other, held in self.held.items() if other.scope == slot.scope}
        if any(len(held) > len(ids) and held[: len(ids)] == ids for held in same_scope.values()):
            return
        for other, held in same_scope.items():
            if ids[: len(held)] == held:
                del self.held[other]
        self.held[slot] = ids

    def longest_prefix(self, ids: list[int], scope: str) -> int:
        known = [held for slot, held in self.held.items() if slot.scope == scope]
        known += [
            list(other.ids[: min(other.computed, length)])
            for other, length in self.active.items()
            if other.scope == scope
        ]
        return max((common_prefix(np.array(ids), np.array(other)) for other in known), default=0)

    @contextmanager
    def only_needed_evictions(self, sequence: TokenSequence) -> Iterator[None]:
        """The oldest slots are evicted, and each only if the budget leaves no room for it."""
        before = self.cache.finished_slots
        yield
        after = self.cache.finished_slots
        taken_over = sequence.slot if sequence.has_slot else None
        evicted = [slot for slot in before if slot not in after and slot is not taken_over]
        older = after[:-1]  # the last one may just have been used as a donor
        assert all(before.index(slot) > before.index(gone) for slot in older for gone in evicted)
        if evicted:
            used = self.cache.used_bytes // BYTES_PER_TOKEN
            assert used + evicted[-1].capacity > self.budget, "evicted although there was room"
        for slot in set(before) - set(after):
            del self.held[slot]


def least_capacity(ids: Sequence[int]) -> int:
    """The capacity that a slot for these ids has at least: whole blocks, or the longest sequence."""
    return min(-(-len(ids) // BLOCK) * BLOCK, MAX_TOKENS)


TestCacheUse = CacheUse.TestCase
TestCacheUse.settings = settings(max_examples=60, stateful_step_count=40)
