"""A draft model changes no token, saves steps if it is often right, and is left alone if it is not."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from app.engine.core import EngineCore
from app.engine.ipc.messages import SamplingParams, Submit
from app.engine.loading.load import LoadedModel
from app.engine.speculative.cost import SpeculationCost
from tests.engine.tiny import (
    DEVICE,
    WINDOW,
    Collected,
    TinyModel,
    configs,
    finish,
    greedy,
    packed_decoder,
    run,
)

CHEAP = SpeculationCost(row=0.01, draft=0.05)
EXPENSIVE = SpeculationCost(row=0.2, draft=0.9)
PROMPTS = ("the cat sat", "on the mat, 日本語", "and é too")


@pytest.fixture(params=["slots", "pool"])
def gpt2(request: pytest.FixtureRequest, tiny_model: Callable[[str], TinyModel]) -> TinyModel:
    return replace(tiny_model("gpt2"), uses_pool=request.param == "pool")


@pytest.fixture
def unrelated(gpt2: TinyModel) -> TinyModel:
    """A model that has nothing but the vocabulary in common with gpt2."""
    config = configs(len(gpt2.tokenizer))["llama"]
    return TinyModel.build(config, gpt2.tokenizer)


def with_draft(
    served: TinyModel,
    draft: TinyModel,
    cost: SpeculationCost = CHEAP,
    *,
    cache_tokens: int = 4096,
    step_tokens: int = 64,
    max_active_requests: int = 8,
) -> EngineCore:
    """An engine with a draft model, which may be the served model itself: then it is always right."""
    both = replace(served, bytes_per_token=served.bytes_per_token + draft.bytes_per_token)
    return both.engine(
        draft=LoadedModel(draft.packed, draft.tokenizer, WINDOW),
        speculation_cost=cost,
        cache_tokens=cache_tokens,
        step_tokens=step_tokens,
        max_active_requests=max_active_requests,
    )


def test_right_draft_tokens_save_most_steps(gpt2: TinyModel) -> None:
    plain, drafting = gpt2.engine(), with_draft(gpt2, gpt2)
    ask = greedy("a", "the cat sat", 60)
    assert run(drafting, ask).texts == run(plain, ask).texts
    assert drafting.steps < 0.4 * plain.steps


def test_wrong_draft_tokens_cost_few_steps_and_no_token(gpt2: TinyModel, unrelated: TinyModel) -> None:
    drafting = with_draft(gpt2, unrelated, EXPENSIVE)
    assert run(drafting, greedy("a", "the cat sat", 60)).texts["a"] == gpt2.generate("the cat sat", 60)
    assert drafting.steps <= 61


@pytest.mark.parametrize("cost", [CHEAP, EXPENSIVE], ids=["cheap", "expensive"])
@pytest.mark.parametrize("is_same", [True, False])
def test_replies_side_by_side_equal_generate(
    gpt2: TinyModel, unrelated: TinyModel, cost: SpeculationCost, is_same: bool
) -> None:
    drafting = with_draft(gpt2, gpt2 if is_same else unrelated, cost)
    texts = run(drafting, *(greedy(prompt, prompt, 40) for prompt in PROMPTS)).texts
    assert texts == {prompt: gpt2.generate(prompt, 40) for prompt in PROMPTS}


def test_drawn_replies_are_those_without_a_draft_model(gpt2: TinyModel, unrelated: TinyModel) -> None:
    params = SamplingParams(max_tokens=50, temperature=0.8, top_p=0.9, seed=5)
    ask = Submit("a", params, prompt="the cat sat")
    expected = run(gpt2.engine(), ask).texts
    assert run(with_draft(gpt2, gpt2), ask).texts == run(with_draft(gpt2, unrelated), ask).texts == expected


def test_long_histories_are_read_step_by_step_and_once(gpt2: TinyModel) -> None:
    drafting = with_draft(gpt2, gpt2, step_tokens=160)
    prompt = "the cat sat on the mat and é too " * 8
    first = run(drafting, greedy("a", prompt, 20))
    assert first.texts["a"] == gpt2.generate(prompt, 20)
    (slot,) = packed_decoder(drafting).cache.finished_slots
    assert slot.draft_computed >= slot.tokens - 8 > 64
    again = run(drafting, greedy("b", prompt, 20))
    assert again.texts["b"] == first.texts["a"]
    assert again.cached("b") > 64


def test_scarce_memory_changes_no_token(gpt2: TinyModel, unrelated: TinyModel) -> None:
    for draft in (gpt2, unrelated):
        drafting = with_draft(gpt2, draft, cache_tokens=2 * WINDOW, max_active_requests=3)
        texts = run(drafting, *(greedy(prompt, prompt, 100) for prompt in PROMPTS)).texts
        assert texts == {prompt: gpt2.generate(prompt, 100) for prompt in PROMPTS}


def test_a_cancelled_reply_leaves_the_others_right(gpt2: TinyModel) -> None:
    drafting, collected = with_draft(gpt2, gpt2), Collected()
    for prompt in PROMPTS:
        drafting.submit(greedy(prompt, prompt, 40))
    for _ in range(5):
        collected.take(drafting.step())
    drafting.cancel(PROMPTS[1])
    finish(drafting, collected)
    assert collected.texts[PROMPTS[0]] == gpt2.generate(PROMPTS[0], 40)
    assert collected.texts[PROMPTS[2]] == gpt2.generate(PROMPTS[2], 40)


def test_a_draft_model_that_fails_is_not_used_again(gpt2: TinyModel, unrelated: TinyModel) -> None:
    with torch.no_grad():
        unrelated.packed.get_input_embeddings().weight.data = torch.zeros(
            len(gpt2.tokenizer), 7, device=DEVICE
        )
    drafting = with_draft(gpt2, unrelated)
    assert run(drafting, greedy("a", "the cat sat", 30)).texts["a"] == gpt2.generate("the cat sat", 30)
    assert packed_decoder(drafting).proposer.draft_model is None


def test_costs_are_measured(gpt2: TinyModel) -> None:
    drafting = with_draft(gpt2, gpt2)
    drafting.calibrate()
    assert 0 <= packed_decoder(drafting).proposer.cost.row < 10
    assert 0.1 < packed_decoder(drafting).proposer.cost.draft < 10


@pytest.mark.parametrize("rows", [8, 200, 310, 400])  # the served model has 302, and the words take 294
def test_draft_model_may_have_fewer_or_more_embeddings(gpt2: TinyModel, rows: int) -> None:
    served = TinyModel.build(configs(302)["gpt2"], gpt2.tokenizer)
    served = replace(served, uses_pool=gpt2.uses_pool)
    draft = TinyModel.build(configs(rows)["llama"], gpt2.tokenizer)
    engine = with_draft(served, draft)
    requests = [greedy(prompt, prompt, 40) for prompt in PROMPTS]
    assert run(engine, *requests).texts == run(served.engine(), *requests).texts
    assert packed_decoder(engine).proposer.draft_model is not None
