"""A draft model changes no token, saves steps where it guesses well, and is let be where it does not."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from app.engine.core import EngineCore
from app.engine.ipc.messages import SamplingParams, Submit
from app.engine.loading.load import LoadedModel
from app.engine.speculative.cost import SpeculationCost
from tests.engine.tiny import WINDOW, Collected, TinyModel, configs, finish, greedy, run

CHEAP = SpeculationCost(row=0.01, draft=0.05)
DEAR = SpeculationCost(row=0.2, draft=0.9)
PROMPTS = ("the cat sat", "on the mat, 日本語", "and é too")


@pytest.fixture(params=["slots", "arena"])
def gpt2(request: pytest.FixtureRequest, tiny_model: Callable[[str], TinyModel]) -> TinyModel:
    return replace(tiny_model("gpt2"), has_arena=request.param == "arena")


@pytest.fixture
def stranger(gpt2: TinyModel) -> TinyModel:
    """Of the same vocabulary, and with nothing else in common."""
    config = configs(len(gpt2.tokenizer))["llama"]
    return TinyModel.build(config, gpt2.tokenizer)


def engine(
    served: TinyModel, draft: TinyModel | None, price: SpeculationCost = CHEAP, **options: object
) -> EngineCore:
    """`draft` guesses for `served`; it may be that model itself, which always guesses right."""
    if draft is None:
        return served.engine(**options)  # type: ignore[arg-type]
    loaded = LoadedModel(draft.packed, draft.tokenizer, WINDOW)
    both = replace(served, bytes_per_token=served.bytes_per_token + draft.bytes_per_token)
    made = both.engine(draft=loaded, **options)  # type: ignore[arg-type]
    made._guessing._price = price
    return made


def test_right_guesses_save_most_steps(gpt2: TinyModel) -> None:
    plain, drafting = engine(gpt2, None), engine(gpt2, gpt2)
    ask = greedy("a", "the cat sat", 60)
    assert run(drafting, ask).texts == run(plain, ask).texts
    assert drafting.steps < 0.4 * plain.steps


def test_wrong_guesses_cost_few_steps_and_no_token(gpt2: TinyModel, stranger: TinyModel) -> None:
    drafting = engine(gpt2, stranger, DEAR)
    assert run(drafting, greedy("a", "the cat sat", 60)).texts["a"] == gpt2.generate("the cat sat", 60)
    assert drafting.steps <= 61


@pytest.mark.parametrize("price", [CHEAP, DEAR], ids=["cheap", "dear"])
@pytest.mark.parametrize("is_same", [True, False])
def test_replies_side_by_side_equal_generate(
    gpt2: TinyModel, stranger: TinyModel, price: SpeculationCost, is_same: bool
) -> None:
    drafting = engine(gpt2, gpt2 if is_same else stranger, price)
    said = run(drafting, *(greedy(prompt, prompt, 40) for prompt in PROMPTS)).texts
    assert said == {prompt: gpt2.generate(prompt, 40) for prompt in PROMPTS}


def test_drawn_replies_are_those_without_a_draft(gpt2: TinyModel, stranger: TinyModel) -> None:
    params = SamplingParams(max_tokens=50, temperature=0.8, top_p=0.9, seed=5)
    ask = Submit("a", params, prompt="the cat sat")
    expected = run(engine(gpt2, None), ask).texts
    assert run(engine(gpt2, gpt2), ask).texts == run(engine(gpt2, stranger), ask).texts == expected


def test_long_histories_are_read_step_by_step_and_once(gpt2: TinyModel) -> None:
    drafting = engine(gpt2, gpt2, step_tokens=160)
    prompt = "the cat sat on the mat and é too " * 8
    first = run(drafting, greedy("a", prompt, 20))
    assert first.texts["a"] == gpt2.generate(prompt, 20)
    (slot,) = drafting.cache._finished
    assert slot.drafted >= len(slot.ids) - 8 > 64
    again = run(drafting, greedy("b", prompt, 20))
    assert again.texts["b"] == first.texts["a"]
    assert again.cached("b") > 64


def test_memory_that_is_short_changes_nothing(gpt2: TinyModel, stranger: TinyModel) -> None:
    for draft in (gpt2, stranger):
        drafting = engine(gpt2, draft, cache_tokens=2 * WINDOW, max_active_requests=3)
        said = run(drafting, *(greedy(prompt, prompt, 100) for prompt in PROMPTS)).texts
        assert said == {prompt: gpt2.generate(prompt, 100) for prompt in PROMPTS}


def test_a_cancelled_reply_leaves_the_others_right(gpt2: TinyModel) -> None:
    drafting, collected = engine(gpt2, gpt2), Collected()
    for prompt in PROMPTS:
        drafting.submit(greedy(prompt, prompt, 40))
    for _ in range(5):
        collected.take(drafting.step())
    drafting.cancel(PROMPTS[1])
    finish(drafting, collected)
    assert collected.texts[PROMPTS[0]] == gpt2.generate(PROMPTS[0], 40)
    assert collected.texts[PROMPTS[2]] == gpt2.generate(PROMPTS[2], 40)


def test_a_draft_model_that_fails_is_not_asked_again(gpt2: TinyModel, stranger: TinyModel) -> None:
    with torch.no_grad():
        stranger.packed.get_input_embeddings().weight.data = torch.zeros(len(gpt2.tokenizer), 7)
    drafting = engine(gpt2, stranger)
    assert run(drafting, greedy("a", "the cat sat", 30)).texts["a"] == gpt2.generate("the cat sat", 30)
    assert drafting._guessing._draft is None


def test_prices_are_measured(gpt2: TinyModel) -> None:
    drafting = engine(gpt2, gpt2)
    drafting.calibrate_speculation()
    assert 0 <= drafting._guessing._price.row < 10
    assert 0.1 < drafting._guessing._price.draft < 10
