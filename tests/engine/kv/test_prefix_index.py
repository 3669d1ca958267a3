"""The longest shared prefix is found exactly, at a cost that does not depend on the number of slots."""

import sys
from collections.abc import Callable
from types import FrameType

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from app.engine.kv.prefix_cache import KVCache
from app.engine.kv.prefix_index import Ids, PrefixIndex, common_prefix
from app.engine.kv.slot import Slot
from app.engine.scheduling.sequence import TokenSequence

SYSTEM_PROMPT = [7] * 100


def array(ids: list[int]) -> Ids:
    return np.array(ids, np.int64)


def calls(function: Callable[[], object]) -> int:
    """The number of function calls, Python's and C's, that a call of `function` makes."""
    count = 0

    def profile(frame: FrameType, event: str, argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    previous = sys.getprofile()
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(previous)
    return count


def test_longest_prefix_is_exact_to_the_token() -> None:
    index: PrefixIndex[Slot] = PrefixIndex()
    short, long, other = Slot(64), Slot(64), Slot(64)
    index.put(short, array([1, 2, 3]))
    index.put(long, array([1, 2, 3, 4, 5, 6]))
    index.put(other, array([1, 2, 9]))
    assert index.longest_prefix(array([1, 2, 3, 4, 5, 7]), "") == (long, 5)
    assert index.longest_prefix(array([1, 2, 3]), "") == (short, 3)
    assert index.longest_prefix(array([1, 2, 9, 9]), "") == (other, 3)
    assert index.longest_prefix(array([2]), "") == (None, 0)
    assert index.longest_prefix(array([]), "") == (None, 0)


def test_longest_prefix_prefers_a_slot_that_ends_there_and_then_a_new_one() -> None:
    index: PrefixIndex[Slot] = PrefixIndex()
    slots = [Slot(64) for _ in range(4)]
    for slot, ids in zip(slots, ([1, 2], [1, 2, 3, 3], [1, 2, 4, 4], [1, 2, 3, 5]), strict=True):
        index.put(slot, array(ids))
    assert index.longest_prefix(array([1, 2, 9]), "") == (slots[0], 2)
    index.remove(slots[0])
    assert index.longest_prefix(array([1, 2, 9]), "") == (slots[3], 2)
    index.put(slots[2], array([1, 2, 4, 4]))
    assert index.longest_prefix(array([1, 2, 9]), "") == (slots[2], 2)


def test_put_replaces_and_remove_forgets() -> None:
    index, slot = PrefixIndex[Slot](), Slot(64)
    index.put(slot, array([1, 2]))
    index.put(slot, array([1, 3]))
    assert index.longest_prefix(array([1, 2]), "") == (slot, 1)
    index.remove(slot)
    index.remove(slot)
    assert index.longest_prefix(array([1, 3]), "") == (None, 0)
    index.check_integrity()


def test_longest_prefix_never_crosses_scopes() -> None:
    index: PrefixIndex[Slot] = PrefixIndex()
    index.put(Slot(64, "a"), array([1, 2, 3]))
    assert index.longest_prefix(array([1, 2, 3]), "b") == (None, 0)


few_ids = st.lists(st.integers(0, 2), min_size=1, max_size=8)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 9), few_ids | st.none(), st.sampled_from("ab"))), few_ids)
def test_longest_prefix_equals_a_comparison_with_every_slot(
    changes: list[tuple[int, list[int] | None, str]], prompt: list[int]
) -> None:
    index: PrefixIndex[Slot] = PrefixIndex()
    slots = {(number, scope): Slot(64, scope) for number in range(10) for scope in "ab"}
    held: dict[Slot, list[int]] = {}
    for number, ids, scope in changes:
        slot = slots[number, scope]
        if ids is None:
            index.remove(slot)
            held.pop(slot, None)
        else:
            index.put(slot, array(ids))
            held[slot] = ids
        index.check_integrity()
    for scope in "ab":
        shared = {
            slot: common_prefix(array(ids), array(prompt))
            for slot, ids in held.items()
            if slot.scope == scope
        }
        found, length = index.longest_prefix(array(prompt), scope)
        assert length == max(shared.values(), default=0)
        assert (found is None) if length == 0 else (found is not None and shared[found] == length)


def full_cache(sequences: int) -> KVCache:
    """Filled with sequences that share a system prompt and then differ."""
    cache = KVCache(budget_bytes=sequences * 192, bytes_per_token=1, max_tokens=192)
    for number in range(sequences):
        serve(cache, [*SYSTEM_PROMPT, *divmod(number, 50), *[8] * 50])
    return cache


def serve(cache: KVCache, ids: list[int]) -> int:
    sequence = TokenSequence("a", ids)
    assert cache.attach(sequence)
    sequence.advance(sequence.pending)
    cache.release(sequence)
    return sequence.cached


@pytest.mark.parametrize("prompt", [[*SYSTEM_PROMPT, 1, 7, *[9] * 50], [5] * 150], ids=["shared", "new"])
def test_admission_and_eviction_cost_the_same_with_many_slots(prompt: list[int]) -> None:
    few, many = full_cache(60), full_cache(1200)
    assert len(many.finished_slots) == 1200
    assert calls(lambda: serve(many, prompt)) <= calls(lambda: serve(few, prompt)) + 10


@settings(max_examples=300)
@given(st.lists(st.tuples(few_ids, st.sampled_from("ab")), max_size=8), few_ids)
def test_sharing_yields_each_slot_once_and_the_longest_first(
    held: list[tuple[list[int], str]], prompt: list[int]
) -> None:
    index: PrefixIndex[Slot] = PrefixIndex()
    slots = {Slot(64, scope): ids for ids, scope in held}
    for slot, ids in slots.items():
        index.put(slot, array(ids))
    found = list(index.sharing(array(prompt), "a"))
    shared = {it: common_prefix(array(ids), array(prompt)) for it, ids in slots.items() if it.scope == "a"}
    assert len(found) == len(dict(found)) and dict(found) == {it: n for it, n in shared.items() if n > 0}
    # Of equal lengths, the slots that end there come first.
    order = [(-length, len(slots[slot]) > length) for slot, length in found]
    assert order == sorted(order)
    assert not found or index.longest_prefix(array(prompt), "a") == found[0]
