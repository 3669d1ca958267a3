"""The byte budget, scopes and reuse of own caches."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies as st
from transformers import PreTrainedTokenizerFast

from app.engine.kv.sequence_bytes import SequenceBytes
from app.engine.own_cache.caches import OwnCaches
from app.engine.own_cache.decoder import OwnCacheDecoder
from app.engine.own_cache.runner import OwnForward
from app.engine.own_cache.sequence_state import SequenceState, storage_bytes
from app.engine.scheduling.sequence import Chunk, TokenSequence
from tests.engine.own_cache.models import OwnCacheModel, unpacked
from tests.engine.tiny import SLIDING, configs, greedy, run

OwnModel = Callable[[str], OwnCacheModel]
PROMPT = "the cat sat on the mat, 日本語 and é 👍 too. " * 5


def test_kept_caches_count_with_the_bytes_of_their_tensors(own_model: OwnModel) -> None:
    for name in ("qwen3_5_text", "mamba2", "deepseek_v3", "rwkv", "lfm2"):
        engine = own_model(name).engine()
        run(engine, greedy("a", PROMPT), greedy("b", "on the mat"))
        assert isinstance(engine.cache, OwnCaches)
        kept = engine.cache.kept_states
        assert engine.cache.used_bytes == sum(storage_bytes(state.cache) for state in kept) > 0
        engine.cache.forget_finished()
        assert engine.cache.used_bytes == 0


def test_the_measured_line_bounds_what_a_sequence_takes(own: OwnCacheModel) -> None:
    engine = own.engine()
    run(engine, greedy("a", PROMPT, 30))
    assert isinstance(engine.cache, OwnCaches)
    for state in engine.cache.kept_states:
        assert state.nbytes <= own.path.sequence_bytes.of(state.tokens) * 1.01 + 1024


def test_sequence_bytes_is_the_line_through_two_measurements() -> None:
    assert SequenceBytes.between((9, 100 + 9 * 8), (13, 100 + 13 * 8)) == SequenceBytes(8, 100)
    assert SequenceBytes.between((9, 100), (13, 100)) == SequenceBytes(0, 100)
    assert SequenceBytes(8, 100).longest(100 + 8 * 50, 200) == 50
    assert SequenceBytes(8, 100).longest(1 << 20, 200) == 200
    assert SequenceBytes(0, 100).longest(99, 200) == 0


def fill(caches: OwnCaches, sequence: TokenSequence, own: OwnCacheModel) -> None:
    """Read all ids of an attached sequence."""
    decoder = own.forward
    while sequence.pending:
        assert caches.extend(sequence)
        count = caches.chunk_size(sequence, 8)
        decoder.logits([(Chunk(sequence, count), caches.state_of(sequence))])
        sequence.advance(count)


PROMPTS = st.tuples(st.lists(st.integers(2, 4), min_size=1, max_size=60), st.sampled_from("ab"))


@settings(max_examples=20, deadline=None)
@given(st.lists(PROMPTS, min_size=1, max_size=8), st.sampled_from(["mamba2", "deepseek_v3", "lfm2"]))
def test_any_order_of_prompts_keeps_the_budget_and_the_scopes(
    own_model: OwnModel, prompts: list[tuple[list[int], str]], name: str
) -> None:
    own = own_model(name)
    size = own.path.sequence_bytes
    caches = OwnCaches(
        budget_bytes=3 * size.of(64),
        sequence_bytes=size,
        max_tokens=64,
        has_checkpoints=not own.path.can_crop,
    )
    read: dict[str, list[list[int]]] = {"a": [], "b": []}
    for number, (ids, scope) in enumerate(prompts):
        sequence = TokenSequence(str(number), ids, scope)
        assert caches.attach(sequence)
        cached = ids[: sequence.cached]
        assert not cached or any(cached == other[: len(cached)] for other in read[scope])
        fill(caches, sequence, own)
        caches.check_integrity()
        caches.release(sequence)
        read[scope].append(ids)
        caches.check_integrity()


def test_a_cache_that_cannot_be_cropped_leaves_the_reuse_to_the_next_best(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    own = unpacked(configs(len(tokenizer))["mistral"], tokenizer)
    assert SLIDING > 7
    size = own.path.sequence_bytes
    caches = OwnCaches(budget_bytes=9 * size.of(64), sequence_bytes=size, max_tokens=64)
    shared = [2, 3, 4, 5, 6]
    for rest in ([7, 8], range(20, 40)):  # the newer one has forgotten its beginning
        sequence = TokenSequence(str(rest), [*shared, *rest])
        assert caches.attach(sequence)
        fill(caches, sequence, own)
        caches.release(sequence)
    sequence = TokenSequence("new", [*shared, 50, 51])
    assert caches.attach(sequence)
    assert sequence.cached == len(shared)
    caches.check_integrity()


@pytest.mark.parametrize("name", ["lfm2", "deepseek_v3"])
def test_a_new_sequence_leaves_those_that_decode_their_joint_cache(own_model: OwnModel, name: str) -> None:
    own = own_model(name)
    size = own.path.sequence_bytes
    caches = OwnCaches(budget_bytes=9 * size.of(64), sequence_bytes=size, max_tokens=64)
    sequences = [TokenSequence(str(start), range(start, start + 20)) for start in (2, 30)]
    for sequence in sequences:
        assert caches.attach(sequence)
        fill(caches, sequence, own)
        sequence.accept([2])
    forward = OwnForward(own.served.loaded.model, own.path.options)
    forward.logits([(Chunk(sequence, 1), caches.state_of(sequence)) for sequence in sequences])
    joint = caches.state_of(sequences[0]).joint
    assert joint is not None
    assert caches.attach(TokenSequence("new", range(50, 60)))
    assert all(caches.state_of(sequence).joint is joint for sequence in sequences)


class Unwieldy:
    """A part of a cache for whose first copies there is no memory."""

    def __init__(self, failures: int) -> None:
        self.failures = failures

    def __deepcopy__(self, memo: object) -> "Unwieldy":
        if self.failures > 0:
            self.failures -= 1
            raise MemoryError
        return Unwieldy(0)


@pytest.mark.parametrize(("failures", "kept"), [(0, 2), (1, 1), (2, 0)])
def test_checkpoint_that_memory_cannot_copy_is_tried_once_more_without_kept_caches(
    own_model: OwnModel, failures: int, kept: int
) -> None:
    own = own_model("mamba2")
    size = own.path.sequence_bytes
    caches = OwnCaches(budget_bytes=9 * size.of(64), sequence_bytes=size, max_tokens=64)
    finished = TokenSequence("finished", range(2, 12))
    assert caches.attach(finished)
    fill(caches, finished, own)
    caches.release(finished)
    sequence = TokenSequence("new", range(20, 80))
    assert caches.attach(sequence)
    count = caches.chunk_size(sequence, 64)
    own.forward.logits([(Chunk(sequence, count), caches.state_of(sequence))])
    sequence.advance(count)
    caches.state_of(sequence).cache.unwieldy = Unwieldy(failures)
    assert caches.extend(sequence)
    assert len(caches.kept_states) == kept
    caches.check_integrity()


@pytest.mark.parametrize(("spare", "beside_the_long_one"), [(32, 0), (1000, 3)])
def test_padding_of_joint_caches_counts_in_the_budget(
    own_model: OwnModel, spare: int, beside_the_long_one: int
) -> None:
    """One long sequence decodes beside seven short ones, with `spare` ids of room beside their caches."""
    own = own_model("deepseek_v3")
    size = own.path.sequence_bytes
    budget = size.of(256) + 7 * size.of(64) + size.of(spare)
    caches = OwnCaches(budget_bytes=budget, sequence_bytes=size, max_tokens=256, has_checkpoints=False)
    decoder = OwnCacheDecoder(caches, OwnForward(own.served.loaded.model, own.path.options), 24)
    finished = decoding(caches, own, "finished", 20)
    caches.release(finished)
    sequences = [decoding(caches, own, "long", 250), *(decoding(caches, own, str(n), 58) for n in range(7))]
    for _ in range(4):
        assert all(caches.extend(sequence) for sequence in sequences)
        decoder.forward([Chunk(sequence, 1) for sequence in sequences])
        states = [caches.state_of(sequence) for sequence in sequences]
        existing = {id(it.cache): it.cache for it in (state.joint or state for state in states)}
        kept = sum(state.nbytes for state in caches.kept_states)
        assert sum(storage_bytes(cache) for cache in existing.values()) + kept <= budget
        caches.check_integrity()
        for sequence in sequences:
            sequence.advance(1)
            sequence.accept([2])
    joint = states[0].joint
    assert sum(joint is not None and state.joint is joint for state in states[1:]) == beside_the_long_one


def decoding(caches: OwnCaches, own: OwnCacheModel, name: str, length: int) -> TokenSequence:
    """Returns a sequence whose prompt has been read."""
    sequence = TokenSequence(name, [2 + (len(name) + 7 * each) % 90 for each in range(length)], scope=name)
    assert caches.attach(sequence)
    fill(caches, sequence, own)
    sequence.accept([2])
    return sequence


class TooLarge:
    """A joint cache for a copy of whose rows there is no memory."""

    cache = None

    def row_of(self, state: SequenceState) -> object:
        raise MemoryError


def test_a_cache_that_memory_cannot_take_out_of_a_joint_one_is_not_kept(own_model: OwnModel) -> None:
    own = own_model("lfm2")
    size = own.path.sequence_bytes
    caches = OwnCaches(budget_bytes=3 * size.of(64), sequence_bytes=size, max_tokens=64)
    sequence = TokenSequence("a", range(2, 20))
    assert caches.attach(sequence)
    fill(caches, sequence, own)
    caches.state_of(sequence).join(TooLarge())
    caches.release(sequence)
    assert (caches.kept_states, caches.used_bytes) == ([], 0)
    caches.check_integrity()


def test_a_prompt_that_is_faster_as_a_whole_is_read_as_a_whole(own_model: OwnModel) -> None:
    own = own_model("jamba")
    engine = own.engine()
    engine.calibrate()
    assert isinstance(engine.cache, OwnCaches) and engine.cache.single_cost > 0
    run(engine, greedy("a", PROMPT, 1))
    engine.cache.single_cost = 1000.0
    whole = run(engine, greedy("b", PROMPT + "the cat", 8))
    assert whole.cached("b") == 0
    engine.cache.single_cost = 0.01
    single = run(engine, greedy("c", PROMPT + "the cat", 8))
    assert single.cached("c") > 0
    assert single.texts["c"] == whole.texts["b"] == own.generate(PROMPT + "the cat", 8)


def test_a_copy_shares_no_memory(own: OwnCacheModel) -> None:
    sequence, state = TokenSequence("a", range(2, 12)), SequenceState()
    own.forward.logits([(Chunk(sequence, 9), state)])
    sequence.advance(9)
    before = own.forward.logits([(Chunk(sequence, 1), state.copy())]).clone()
    own.forward.logits([(Chunk(sequence, 1), state.copy())])
    assert own.forward.logits([(Chunk(sequence, 1), state)]).equal(before)
