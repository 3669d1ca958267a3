"""Whatever sequences come and go, the cache stays within its budget and evicts no slot without need."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from hypothesis import settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.engine.kv.prefix_cache import KVCache
from app.engine.kv.prefix_index import common_prefix
from app.engine.kv.slot import Slot
from app.engine.scheduling.sequence import TokenSequence

BYTES_PER_TOKEN = 3
MAX_TOKENS = 200
any_sequence = st.integers(0, 99)  # of the active ones, counted round and round
few_ids = st.lists(st.integers(0, 1), min_size=1, max_size=40)
prompts = st.tuples(few_ids, st.sampled_from([1, 2, 4])).map(lambda pair: pair[0] * pair[1])


class CacheUse(RuleBasedStateMachine):
    """Remembers the ids in each slot, and compares every look-up with all of them."""

    @initialize(budget=st.integers(MAX_TOKENS, 4 * MAX_TOKENS))
    def start(self, budget: int) -> None:
        self.budget = budget
        self.cache = KVCache(
            budget_bytes=budget * BYTES_PER_TOKEN, bytes_per_token=BYTES_PER_TOKEN, max_tokens=MAX_TOKENS
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
            assert self.active, "an empty cache has room for every sequence"

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
            self.discard(number)

    @precondition(lambda self: self.active)
    @rule(number=any_sequence)
    def release(self, number: int) -> None:
        sequence = self.pick(number)
        slot = sequence.slot
        self.cache.release(sequence)
        del self.active[sequence]
        if sequence.computed > 0:
            self.held[slot] = list(sequence.ids[: sequence.computed])

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

    def pick(self, number: int) -> TokenSequence:
        return list(self.active)[number % len(self.active)]

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


TestCacheUse = CacheUse.TestCase
TestCacheUse.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
