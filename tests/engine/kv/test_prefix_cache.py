"""Prefixes are found, taken over or copied; slots stay within the budget; scopes stay apart."""

import pytest
import torch

from app.engine.kv.prefix_cache import KVCache
from app.engine.scheduling.sequence import TokenSequence

BYTES_PER_TOKEN = 2 * 2 * 4 * 4  # key and value, 2 heads of 4 float32


def make_cache(tokens: int = 1024, longest: int = 512) -> KVCache:
    return KVCache(budget_bytes=tokens * BYTES_PER_TOKEN, bytes_per_token=BYTES_PER_TOKEN, max_tokens=longest)


def key_of(ids: list[int]) -> torch.Tensor:
    """Returns keys in which each element of a row is the id of its token."""
    return torch.tensor(ids, dtype=torch.float32).view(1, 1, -1, 1).expand(1, 2, -1, 4)


def compute(sequence: TokenSequence) -> None:
    """Do what the model does: write keys and values of the pending ids."""
    pending = list(sequence.ids[sequence.computed :])
    sequence.slot.write(0, sequence.computed, torch.stack((key_of(pending), -key_of(pending))))
    sequence.advance(sequence.pending)


def admit(cache: KVCache, name: str, ids: list[int], scope: str = "") -> TokenSequence:
    sequence = TokenSequence(name, ids, scope)
    assert cache.attach(sequence)
    compute(sequence)
    return sequence


def serve(cache: KVCache, name: str, ids: list[int], scope: str = "") -> int:
    """Run a request from admission to its end. Returns the number of its cached ids."""
    sequence = admit(cache, name, ids, scope)
    keys, values = sequence.slot.layers[0]
    assert keys[0, 0, : len(ids), 0].tolist() == ids, "the slot holds other keys than its ids say"
    assert torch.equal(values[:, :, : len(ids)], -keys[:, :, : len(ids)])
    cache.release(sequence)
    cache.check_integrity()
    return sequence.cached


def test_attach_takes_the_longest_prefix_and_leaves_the_last_id() -> None:
    cache = make_cache()
    serve(cache, "short", [1, 2, 3])
    serve(cache, "long", [*range(1, 41)])
    assert serve(cache, "next", [*range(1, 31), 99]) == 30
    assert serve(cache, "same", [1, 2, 3]) == 2
    assert serve(cache, "other", [7, 8, 9]) == 0


def test_attach_takes_over_what_it_extends() -> None:
    cache = make_cache()
    serve(cache, "first", [*range(100)])
    used = cache.used_bytes
    assert serve(cache, "second", [*range(120)]) == 100
    assert cache.used_bytes == used


def test_attach_takes_over_all_but_a_short_tail_without_a_copy() -> None:
    for shared, is_taken_over in ((100, True), (84, True), (83, False), (20, False)):
        cache = make_cache()
        serve(cache, "first", [*range(100)])
        (donor,) = cache.finished_slots
        sequence = admit(cache, "second", [*range(shared), *[7] * 30])
        assert sequence.cached == shared
        assert (sequence.slot is donor) == is_taken_over, shared


def test_attach_takes_over_a_branch_if_there_is_no_room_for_both() -> None:
    for tokens, is_taken_over in ((319, True), (320, False)):
        cache = make_cache(tokens, longest=192)
        serve(cache, "trunk", [*range(100)])
        (donor,) = cache.finished_slots
        sequence = admit(cache, "branch", [*range(50), *[7] * 130])
        assert (sequence.slot is donor) == is_taken_over
        cache.check_integrity()


def test_attach_evicts_nothing_for_a_slot_that_is_large_enough() -> None:
    cache = make_cache(256, longest=128)
    serve(cache, "other", [9] * 100)
    serve(cache, "first", [*range(100)])
    other, donor = cache.finished_slots
    sequence = admit(cache, "second", [*range(100), *[7] * 20])
    assert sequence.slot is donor and cache.finished_slots == [other]


def test_attach_copies_if_another_branch_may_need_the_slot() -> None:
    cache = make_cache()
    serve(cache, "trunk", [*range(100)])
    assert serve(cache, "branch", [*range(50), 7, 7]) == 50
    assert serve(cache, "trunk again", [*range(100), 1]) == 100


def test_attach_copies_from_a_running_sequence() -> None:
    cache = make_cache()
    running = admit(cache, "running", [*range(80)])
    assert serve(cache, "beside", [*range(60), 5]) == 60
    assert running.slot.layers[0][0][0, 0, :80, 0].tolist() == [*range(80)]
    cache.release(running)
    cache.check_integrity()


def test_attach_never_crosses_scopes() -> None:
    cache = make_cache()
    serve(cache, "mine", [*range(50)], scope="a")
    assert serve(cache, "theirs", [*range(50)], scope="b") == 0
    assert serve(cache, "mine again", [*range(50)], scope="a") == 49


def test_attach_evicts_the_least_recently_used() -> None:
    cache = make_cache(tokens=3 * 64, longest=64)
    for name, first in (("a", 100), ("b", 200), ("c", 300)):
        serve(cache, name, [first, 1, 2, 3])
    serve(cache, "a again", [100, 1, 2, 3])
    serve(cache, "d", [400, 1, 2, 3])
    assert serve(cache, "a", [100, 1, 2, 3]) > 0
    assert serve(cache, "b", [200, 1, 2, 3]) == 0


def test_attach_waits_when_running_sequences_fill_the_budget() -> None:
    cache = make_cache(tokens=128, longest=128)
    first = admit(cache, "first", [*range(100)])
    waiting = TokenSequence("second", [*range(100)])
    assert not cache.attach(waiting)
    assert not waiting.has_slot
    cache.release(first)
    assert cache.attach(waiting)
    assert waiting.computed == 99


def test_extend_grows_with_the_sequence_and_keeps_its_keys() -> None:
    cache = make_cache()
    sequence = admit(cache, "a", [5])
    assert sequence.slot.capacity < 100
    for number in range(400):
        sequence.accept([number])
        assert cache.extend(sequence)
        compute(sequence)
    assert sequence.slot.layers[0][0][0, 0, :401, 0].tolist() == list(sequence.ids)
    assert sequence.slot.capacity <= 512
    cache.check_integrity()


def test_extend_refuses_beyond_the_budget() -> None:
    cache = make_cache(tokens=128, longest=128)
    first, second = admit(cache, "a", [*range(60)]), admit(cache, "b", [*range(200, 260)])
    first.accept(range(10))
    assert not cache.extend(first)
    cache.discard(second)
    assert cache.extend(first)
    assert second.computed == 0


def test_extend_takes_what_is_left_if_that_is_enough() -> None:
    cache = make_cache(tokens=384, longest=384)
    first, second = admit(cache, "a", [*range(256)]), admit(cache, "b", [*range(900, 960)])
    first.accept(range(10))
    assert cache.extend(first)  # 320 fit beside the other's 64; the usual growth by a quarter would not
    assert first.slot.capacity == 320
    first.accept(range(60))
    assert not cache.extend(first)
    cache.release(second)
    cache.check_integrity()


@pytest.mark.parametrize("tokens", [256, 1024])
def test_random_use_stays_within_the_budget(tokens: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    draws = torch.randint(0, 3, (300, 40), generator=generator).tolist()
    lengths = torch.randint(1, 40, (300,), generator=generator).tolist()
    cache = make_cache(tokens=tokens, longest=64)
    for number, (ids, length) in enumerate(zip(draws, lengths, strict=True)):
        serve(cache, str(number), ids[:length], scope="ab"[number % 2])


def test_release_keeps_one_of_many_with_the_same_ids() -> None:
    cache = make_cache(tokens=16 * 448)
    serve(cache, "first", [*range(421)])
    once = cache.used_bytes
    for _ in range(3):
        together = [admit(cache, str(number), [*range(421)]) for number in range(15)]
        for sequence in together:
            cache.release(sequence)
        cache.check_integrity()
        assert cache.used_bytes == once


def test_release_keeps_no_slot_that_another_contains() -> None:
    cache = make_cache()
    short, long = admit(cache, "short", [*range(20)]), admit(cache, "long", [*range(100)])
    elsewhere = admit(cache, "elsewhere", [*range(20)], scope="b")
    for sequence in (short, elsewhere, long):
        cache.release(sequence)
    assert [slot.tokens for slot in cache.finished_slots] == [20, 100]
    late = admit(cache, "late", [*range(21)])
    branch = admit(cache, "branch", [*range(20), 7])
    cache.release(late)
    assert [slot.tokens for slot in cache.finished_slots] == [20, 100]
    cache.release(branch)
    assert [slot.tokens for slot in cache.finished_slots] == [20, 100, 21]
    cache.check_integrity()


def test_release_drops_what_is_not_to_be_kept() -> None:
    cache = make_cache()
    sequence = TokenSequence("a", [*range(50)], is_kept=False)
    assert cache.attach(sequence)
    compute(sequence)
    cache.release(sequence)
    assert cache.used_bytes == 0
    cache.check_integrity()
