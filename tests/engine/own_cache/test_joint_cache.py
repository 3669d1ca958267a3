"""Sequences that decode together share passes, and have the same caches afterwards as if they were alone."""

import weakref
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings, strategies as st
from transformers import PreTrainedTokenizerFast

from app.engine.own_cache.joint_cache import Joining, JointCache, groups_to_join, padding_of
from app.engine.own_cache.runner import OwnForward
from app.engine.own_cache.sequence_state import Joint, SequenceState, tensors_of
from app.engine.scheduling.sequence import Chunk, TokenSequence
from tests.engine.own_cache.models import ARCHITECTURES, OwnCacheModel, unpacked
from tests.engine.tiny import SLIDING, configs, greedy, run

OwnModel = Callable[[str], OwnCacheModel]
Row = tuple[TokenSequence, SequenceState]
ALONE = {"rwkv", "recurrent_gemma"}  # whose caches are not those of transformers


def read(forward: OwnForward, rows: Sequence[Row], *counts: int) -> torch.Tensor:
    """Let each row read so many ids."""
    chunks = [Chunk(sequence, count) for (sequence, _), count in zip(rows, counts, strict=True)]
    logits = forward.logits([(chunk, state) for chunk, (_, state) in zip(chunks, rows, strict=True)])
    for chunk in chunks:
        chunk.sequence.advance(chunk.count)
    return logits


def rows_of(lengths: Sequence[int]) -> list[Row]:
    ids = [[2 + (7 * number + 5 * each) % 90 for each in range(n)] for number, n in enumerate(lengths)]
    return [(TokenSequence(str(number), each), SequenceState()) for number, each in enumerate(ids)]


def test_all_but_a_few_architectures_join_their_sequences(own_model: OwnModel) -> None:
    found = {name: own_model(name).path.options.joining for name in ARCHITECTURES}
    assert {name for name, joining in found.items() if joining is Joining.NEVER} == ALONE
    assert {name for name, joining in found.items() if joining is Joining.UNPADDED} == {"mamba", "mamba2"}


def test_rows_that_were_joint_are_as_if_they_were_alone(own: OwnCacheModel) -> None:
    model, options = own.served.loaded.model, own.path.options
    lonely = OwnForward(model, replace(options, joining=Joining.NEVER))
    together, alone = rows_of((30, 12, 21)), rows_of((30, 12, 21))
    for rows, forward in ((together, OwnForward(model, options)), (alone, lonely)):
        read(forward, rows, 25, 7, 16)
        for _ in range(4):
            read(forward, rows, 1, 1, 1)
    are_joint = [state.joint is not None for _, state in together]
    assert are_joint == [options.joining is not Joining.NEVER] * 3
    for (_, one), (_, other) in zip(together, alone, strict=True):
        pairs = zip(tensors_of(one.cache), tensors_of(other.cache), strict=True)
        for first, second in pairs:
            torch.testing.assert_close(first, second, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(
        read(lonely, together, 1, 1, 1),
        read(lonely, alone, 1, 1, 1),
        rtol=1e-3,
        atol=1e-3,
    )


def test_a_step_reads_the_ids_of_decoding_sequences_in_one_pass(own_model: OwnModel) -> None:
    own = own_model("qwen3_5_text")
    rows = rows_of((30, 12, 21, 20))
    forward = OwnForward(own.served.loaded.model, own.path.options)
    read(forward, rows, 20, 10, 19, 5)
    read(forward, rows, 1, 1, 1, 9)
    joint = rows[0][1].joint
    assert isinstance(joint, JointCache)
    read(forward, rows, 1, 1, 1, 1)
    assert isinstance(rows[0][1].joint, JointCache) and rows[0][1].joint.is_of(
        [rows[each][1] for each in (0, 2, 3, 1)]
    )
    assert not joint.is_of([state for _, state in rows])


def test_a_state_that_is_dropped_leaves_the_others_their_caches(own_model: OwnModel) -> None:
    own = own_model("lfm2")
    rows = rows_of((30, 12))
    forward = OwnForward(own.served.loaded.model, own.path.options)
    read(forward, rows, 20, 10)
    read(forward, rows, 1, 1)
    remaining = rows[:1]
    del rows
    assert remaining[0][1].cache.get_seq_length() == 21


class WatchfulState(SequenceState):
    """Notes whether the cache `watched` still exists when another one has been joined."""

    watched: "weakref.ref[JointCache] | None" = None
    found: JointCache | None = None

    def join(self, joint: Joint) -> None:
        self.found = None if self.watched is None else self.watched()
        super().join(joint)


def test_a_joint_cache_is_freed_before_the_next_one_is_joined(own_model: OwnModel) -> None:
    own = own_model("lfm2")
    watchful = WatchfulState()
    rows = [
        (sequence, watchful if place == 0 else state)
        for place, (sequence, state) in enumerate(rows_of((30, 12, 20)))
    ]
    forward = OwnForward(own.served.loaded.model, own.path.options)
    read(forward, rows, 20, 10, 18)
    read(forward, rows, 1, 1, 1)
    assert isinstance(watchful.joint, JointCache)
    watchful.watched = weakref.ref(watchful.joint)
    read(forward, rows[:2], 1, 1)
    assert isinstance(watchful.joint, JointCache) and watchful.found is None
    assert watchful.watched() is None


def test_a_state_that_has_left_keeps_its_cache_when_the_others_separate(own_model: OwnModel) -> None:
    """As after a separation for which the memory was too small."""
    own = own_model("lfm2")
    rows, alone = rows_of((30, 12)), rows_of((30, 12))
    forward = OwnForward(own.served.loaded.model, own.path.options)
    for each in (rows, alone):
        read(forward, each, 20, 10)
    read(forward, rows, 1, 1)
    joint, left = rows[0][1].joint, alone[0][1].cache
    assert isinstance(joint, JointCache)
    rows[0][1].cache = left
    assert not joint.is_of([state for _, state in rows])
    assert rows[1][1].cache is not None
    assert rows[0][1].cache is left


def test_many_sequences_of_different_lengths_decode_as_transformers_generates(own: OwnCacheModel) -> None:
    words = "the cat sat on the mat, 日本語 and é 👍 too. "
    prompts = [words[: 9 + 5 * number] * (1 + number % 4) for number in range(7)]
    replies = run(own.engine(), *(greedy(prompt, prompt, 4 + 3 * n) for n, prompt in enumerate(prompts)))
    assert replies.texts == {prompt: own.generate(prompt, 4 + 3 * n) for n, prompt in enumerate(prompts)}


@pytest.mark.parametrize("name", ["mistral", "gemma2", "gemma3"])
def test_sequences_longer_than_a_sliding_window_decode_together(
    tokenizer: PreTrainedTokenizerFast, name: str
) -> None:
    own = unpacked(configs(len(tokenizer))[name], tokenizer)
    assert own.path.options.joining is Joining.PADDED
    prompts = ["the", "the cat sat on the mat", "the cat sat on the mat, 日本語 and é"]
    replies = run(own.engine(sequences=2.5), *(greedy(prompt, prompt, 3 * SLIDING) for prompt in prompts))
    assert replies.texts == {prompt: own.generate(prompt, 3 * SLIDING) for prompt in prompts}


@given(st.lists(st.integers(1, 20_000), max_size=12), st.integers(0, 5_000))
@settings(max_examples=100)
def test_groups_hold_every_sequence_once_with_little_padding(lengths: list[int], most: int) -> None:
    for joining in Joining:
        groups = groups_to_join(lengths, joining, most)
        assert sorted(place for group in groups for place in group) == list(range(len(lengths)))
    groups = [[lengths[place] for place in each] for each in groups_to_join(lengths, Joining.PADDED, most)]
    for ids in groups:
        assert padding_of(ids) <= 0.25 * sum(ids) + 512
    assert sum(padding_of(ids) for ids in groups) <= most
    assert len(groups_to_join(lengths, Joining.UNPADDED, 0)) <= 1


def test_groups_are_of_similar_lengths() -> None:
    assert groups_to_join([100, 90, 80], Joining.PADDED, 30) == [[0, 1, 2]]
    assert groups_to_join([100, 90, 80], Joining.PADDED, 29) == [[0, 1], [2]]
    assert groups_to_join([8000, 90, 7900, 80], Joining.PADDED, 1000) == [[0, 2], [1, 3]]
