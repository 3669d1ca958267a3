"""Greedy output equals model.generate(do_sample=False), token for token, in any mix of requests."""

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import product

import pytest

from tests.engine.conftest import ARCHITECTURES
from tests.engine.tiny import Collected, TinyModel, finish, greedy, run

PROMPTS = (
    "the cat",
    "sat on the mat, and then the cat sat on it",
    "日本語 é 👍",
    "x",
    "on the mat the cat " * 4,
)


@pytest.fixture(params=product(ARCHITECTURES, ("slots", "pool")), ids="-".join)
def tiny(request: pytest.FixtureRequest, tiny_model: Callable[[str], TinyModel]) -> TinyModel:
    """With slots that have tensors of their own, as on the CPU, and with slots in a pool, as on a GPU."""
    name, storage = request.param
    return replace(tiny_model(name), uses_pool=storage == "pool")


def expect(tiny: TinyModel, prompt: str, max_tokens: int = 24) -> str:
    return tiny.generate(prompt, max_tokens)


def test_engine_alone_equals_generate(tiny: TinyModel) -> None:
    for prompt in PROMPTS:
        assert run(tiny.engine(), greedy("a", prompt)).texts["a"] == expect(tiny, prompt)


@pytest.mark.parametrize("step_tokens", [3, 7, 256])
def test_engine_batch_and_chunks_equal_generate(tiny: TinyModel, step_tokens: int) -> None:
    collected = run(
        tiny.engine(step_tokens=step_tokens, max_active_requests=4),
        *(greedy(prompt, prompt) for prompt in PROMPTS),
    )
    assert collected.texts == {prompt: expect(tiny, prompt) for prompt in PROMPTS}


def test_engine_arrivals_in_mid_reply_equal_generate(tiny: TinyModel) -> None:
    engine, collected = tiny.engine(step_tokens=5), Collected()
    for prompt in PROMPTS:
        engine.submit(greedy(prompt, prompt))
        for _ in range(4):
            collected.take(engine.step())
    finish(engine, collected)
    assert collected.texts == {prompt: expect(tiny, prompt) for prompt in PROMPTS}


def test_engine_next_turn_reuses_the_cache_and_equals_generate(tiny: TinyModel) -> None:
    engine, prompt = tiny.engine(), PROMPTS[1]
    for turn in range(4):
        collected = run(engine, greedy("a", prompt, 12))
        assert collected.texts["a"] == expect(tiny, prompt, 12)
        assert (collected.cached("a") > 10) == (turn > 0)
        prompt += " and the mat"


def test_engine_branches_share_a_prefix_and_equal_generate(tiny: TinyModel) -> None:
    engine, stem = tiny.engine(), "the cat sat on the mat, " * 3
    run(engine, greedy("stem", stem))
    branches = [f"{stem}{end}" for end in ("and", "too", "é 日本")]
    collected = run(engine, *(greedy(branch, branch) for branch in branches))
    assert collected.texts == {branch: expect(tiny, branch) for branch in branches}
    assert all(collected.cached(branch) > 10 for branch in branches)


def test_engine_same_prompt_again_equals_generate(tiny: TinyModel) -> None:
    engine = tiny.engine()
    for repetition in range(3):
        collected = run(engine, greedy("a", PROMPTS[1]))
        assert collected.texts["a"] == expect(tiny, PROMPTS[1])
        assert (collected.cached("a") > 0) == (repetition > 0)


def test_engine_eviction_and_preemption_equal_generate(tiny: TinyModel) -> None:
    """With room for little more than one sequence, so that running ones preempt each other."""
    engine = tiny.engine(cache_tokens=192)
    collected = run(engine, *(greedy(prompt, prompt, 70) for prompt in PROMPTS[:4]))
    assert collected.texts == {prompt: expect(tiny, prompt, 70) for prompt in PROMPTS[:4]}


def test_engine_cancellation_leaves_the_others_alone(tiny: TinyModel) -> None:
    engine, collected = tiny.engine(step_tokens=6), Collected()
    for prompt in PROMPTS:
        engine.submit(greedy(prompt, prompt))
    for step in range(12):
        if step in (1, 5, 9):
            engine.cancel(PROMPTS[step // 4])
        collected.take(engine.step())
    finish(engine, collected)
    for prompt in PROMPTS[3:]:
        assert collected.texts[prompt] == expect(tiny, prompt)
    again = run(engine, greedy("again", PROMPTS[1]))  # on what the cancelled request left in the cache
    assert again.texts["again"] == expect(tiny, PROMPTS[1])


@pytest.mark.parametrize("seed", range(3))
def test_engine_random_mix_equals_generate(tiny: TinyModel, seed: int) -> None:
    """Arrivals, shared prefixes, cancellations and a small cache, in random order."""
    draw = random.Random(seed)
    engine = tiny.engine(cache_tokens=draw.choice([192, 320, 640]), step_tokens=draw.choice([4, 16]))
    collected, wanted, cancelled = Collected(), {}, set()
    for number in range(12):
        prompt = " ".join(draw.choices(PROMPTS[:4], k=draw.randint(1, 3)))
        wanted[str(number)] = (prompt, draw.choice([1, 8, 20]))
        engine.submit(greedy(str(number), *wanted[str(number)], scope=draw.choice("ab")))
        for _ in range(draw.randint(0, 6)):
            collected.take(engine.step())
        if draw.random() < 0.2:
            cancelled.add(str(number))
            engine.cancel(str(number))
    finish(engine, collected)
    assert set(collected.ends) == set(wanted)
    for request_id in set(wanted) - cancelled:
        assert collected.texts[request_id] == expect(tiny, *wanted[request_id]), request_id
