"""Sequences that are read together have the same caches afterwards as if they were alone."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import accumulate

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import PreTrainedTokenizerFast

from app.engine.own_cache.joint_cache import JointCache
from app.engine.own_cache.passes import Joining
from app.engine.own_cache.runner import OwnForward
from app.engine.own_cache.sequence_state import SequenceState, storage_bytes, tensors_of
from app.engine.scheduling.sequence import Chunk, TokenSequence
from tests.engine.own_cache.models import ARCHITECTURES, OwnCacheModel, unpacked
from tests.engine.tiny import SLIDING, Collected, configs, finish, greedy, run

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
    together, alone = rows_of((30, 14, 21)), rows_of((30, 14, 21))
    for rows, forward in ((together, OwnForward(model, options)), (alone, lonely)):
        read(forward, rows, 25, 9, 16)
        read(forward, rows, 2, 2, 2)
        for _ in range(2):
            read(forward, rows, 1, 1, 1)
    joint = [state.joint for _, state in together]
    assert (joint[0] is not None) == (options.joining is not Joining.NEVER)
    assert joint == [joint[0]] * 3
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


def peak_bytes(compute: Callable[[], object]) -> int:
    """Returns how much memory the tensors of a call take at the same time, beyond what there was before."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        compute()
    changes = sorted(profiler.events(), key=lambda event: event.time_range.start)
    return int(max(accumulate(change.self_cpu_memory_usage for change in changes)))


@pytest.mark.parametrize("name", ["deepseek_v3", "mamba2"])  # with four and three equal layers
def test_joining_takes_little_memory_beyond_the_caches(own_model: OwnModel, name: str) -> None:
    own = own_model(name)
    rows = rows_of((230, 200, 220, 215))
    read(own.forward, rows, 220, 190, 210, 205)
    states, lengths = [state for _, state in rows], [sequence.computed for sequence, _ in rows]

    def join_and_let_one_leave() -> None:
        copies = [state.copy() for state in states]
        JointCache.joining(copies, lengths)
        del copies[0]
        JointCache.joining(copies, lengths[1:])

    size = sum(storage_bytes(state.cache) for state in states)
    assert size < peak_bytes(join_and_let_one_leave) < 1.6 * size


def test_a_join_that_fails_leaves_the_states_empty(own_model: OwnModel) -> None:
    own = own_model("lfm2")
    rows = rows_of((30, 12))
    read(own.forward, rows, 20, 10)
    states = [state for _, state in rows]
    states[1].cache.layers.pop()
    with pytest.raises(IndexError):
        JointCache.joining(states, [20, 10])
    assert all(state.is_empty for state in states)


def test_a_state_that_has_left_keeps_its_cache_when_the_others_go_on(own_model: OwnModel) -> None:
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


def prompts_at_once() -> list[str]:
    """Returns prompts of which one pass reads all but the last, and none begins as another one does."""
    words = "the cat sat on the mat, 日本語 and é 👍 too. " * 3
    return [f"{number} {words[: 90 + 3 * number]}" for number in range(5)] + ["on the mat"]


def test_prompts_that_arrive_at_once_are_read_together_as_transformers_generates(own: OwnCacheModel) -> None:
    prompts = prompts_at_once()
    engine = own.engine(step_tokens=512)
    replies = run(engine, *(greedy(prompt, prompt, 12, scope=prompt) for prompt in prompts))
    assert replies.texts == {prompt: own.generate(prompt, 12) for prompt in prompts}


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", ["qwen3_5_text", "lfm2", "mamba2", "jamba", "deepseek_v3"])
def test_a_prompt_that_is_cancelled_leaves_those_that_are_read_with_it(
    own_model: OwnModel, name: str, steps: int
) -> None:
    own = own_model(name)
    prompts = prompts_at_once()
    engine, collected = own.engine(step_tokens=512), Collected()
    for prompt in prompts:
        engine.submit(greedy(prompt, prompt, 12, scope=prompt))
    for _ in range(steps):
        collected.take(engine.step())
    engine.cancel(prompts[1])
    finish(engine, collected)
    assert {each: collected.texts[each] for each in prompts if each != prompts[1]} == {
        prompt: own.generate(prompt, 12) for prompt in prompts if prompt != prompts[1]
    }
    again = run(engine, greedy("again", prompts[1], 12, scope=prompts[1]))
    assert again.texts["again"] == own.generate(prompts[1], 12)
