"""An engine that makes text while the next step is computed replies as one that waits for each step."""

import random
from collections.abc import Sequence
from dataclasses import replace

import pytest

from app.engine.core import EngineCore
from app.engine.ipc.messages import Deltas, Failed, Grammar, SamplingParams, Submit
from tests.engine.tiny import DEVICE, Collected, TinyModel, ended, finish, greedy, run

PROMPT = "the cat sat on the mat, " * 4  # repeats itself, so that prompt look-up finds draft tokens


@pytest.fixture
def overlapping(llama: TinyModel) -> TinyModel:
    return replace(llama, uses_pool=True)


def test_the_next_step_begins_before_the_text_of_the_last(overlapping: TinyModel, llama: TinyModel) -> None:
    engine, waiting = overlapping.engine(), llama.engine()
    for each in (engine, waiting):
        each.submit(greedy("a", "the cat", 3))
        each.step()
    assert (engine.steps, waiting.steps) == (2, 1)
    finish(engine, Collected(texts={"a": ""}))
    assert engine.steps == 3


def test_a_stop_string_ends_the_reply_although_the_next_step_has_begun(
    overlapping: TinyModel, llama: TinyModel
) -> None:
    whole = run(llama.engine(), greedy("a", PROMPT, 40)).texts["a"]
    for begin in range(3, len(whole) - 3):
        sampling = SamplingParams(max_tokens=40, temperature=0, stop=(whole[begin : begin + 3],))
        engine, submit = overlapping.engine(), Submit("a", sampling, prompt=PROMPT)
        collected, expected = run(engine, submit), run(llama.engine(), submit)
        assert collected.texts == expected.texts
        assert ended(collected).usage == ended(expected).usage
        following = PROMPT + collected.texts["a"] + " and the mat"
        assert run(engine, greedy("b", following)).texts["b"] == llama.generate(following, 24)


def test_a_request_that_is_cancelled_during_a_step_disturbs_no_other(overlapping: TinyModel) -> None:
    for steps in range(1, 6):
        engine, collected = overlapping.engine(step_tokens=16), Collected()
        engine.submit(greedy("a", PROMPT, 40))
        engine.submit(greedy("b", "on the mat", 20))
        for _ in range(steps):
            collected.take(engine.step())
        engine.cancel("a")
        engine.submit(greedy("a2", PROMPT + "and", 20))
        finish(engine, collected)
        assert ended(collected, "a").finish_reason == "cancelled"
        assert collected.texts["b"] == overlapping.generate("on the mat", 20)
        assert collected.texts["a2"] == overlapping.generate(PROMPT + "and", 20)


def test_an_id_that_is_used_again_during_a_step_gets_no_token_of_the_old_request(
    overlapping: TinyModel,
) -> None:
    engine = overlapping.engine()
    engine.submit(greedy("a", "the cat", 40))
    for _ in range(3):
        engine.step()
    engine.cancel("a")
    engine.step()
    engine.submit(greedy("a", "on the mat", 8))
    collected = Collected()
    finish(engine, collected)
    assert collected.texts["a"] == overlapping.generate("on the mat", 8)


@pytest.mark.skipif(DEVICE.type == "cuda", reason="CUDA graphs run no hooks, so that they do not fail")
def test_a_step_that_fails_ends_its_requests_after_the_text_that_they_have(overlapping: TinyModel) -> None:
    engine, collected = overlapping.engine(), Collected()
    engine.submit(greedy("a", "the cat", 8))
    collected.take(engine.step())
    hook = overlapping.packed.get_input_embeddings().register_forward_pre_hook(_break_down)
    try:
        collected.take(engine.step())
    finally:
        hook.remove()
    assert isinstance(collected.ends["a"], Failed)
    assert overlapping.generate("the cat", 8).startswith(collected.texts["a"])
    assert run(engine, greedy("b", "the cat", 4)).texts["b"] == overlapping.generate("the cat", 4)


@pytest.mark.parametrize("seed", range(12))
def test_replies_are_those_of_an_engine_that_waits(
    overlapping: TinyModel, llama: TinyModel, seed: int
) -> None:
    """For requests with stop strings, stop tokens, seeds, forms and log-probabilities."""
    draw = random.Random(seed)
    submits = [_request(draw, str(number)) for number in range(6)]
    overlapped = overlapping.engine(step_tokens=draw.choice([5, 64]))
    assert _outcome(overlapped, submits) == _outcome(llama.engine(), submits)


def _request(draw: random.Random, request_id: str) -> Submit:
    sampling = SamplingParams(
        max_tokens=draw.randint(1, 16),
        temperature=draw.choice([0.0, 1.0]),
        seed=draw.randint(0, 99),
        stop=draw.choice([(), ("a",), ("t", "é")]),
        stop_token_ids=draw.choice([(), tuple(range(40, 60))]),
        top_logprobs=draw.choice([None, 1]),
    )
    form = draw.choice([None, None, Grammar("regex", "[a-z ]{3,9}"), Grammar("regex", "(the|cat){1,4}")])
    prompt = draw.choice(["the cat", PROMPT, PROMPT + "sat", "日本語 é 👍"])
    return Submit(request_id, sampling, prompt=prompt, grammar=form)


def _outcome(engine: EngineCore, submits: Sequence[Submit]) -> dict[str, tuple[object, ...]]:
    """The text, reason, tokens and log-probabilities of each reply."""
    collected = Collected()
    tokens: dict[str, list[int]] = {submit.request_id: [] for submit in submits}
    for submit in submits:
        engine.submit(submit)
    while not engine.is_idle:
        messages = engine.step()
        collected.take(messages)
        for delta in (
            delta for message in messages if isinstance(message, Deltas) for delta in message.items
        ):
            tokens[delta.request_id] += [each.token_id for each in delta.logprobs]
    finish(engine, collected)
    ends = {name: ended(collected, name) for name in tokens}
    return {
        name: (collected.texts[name], end.finish_reason, end.usage.completion_tokens, tokens[name])
        for name, end in ends.items()
    }


def _break_down(*_: object) -> None:
    raise RuntimeError("a device that fails")
