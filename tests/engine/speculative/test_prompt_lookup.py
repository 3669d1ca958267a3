"""Prompt look-up continues text that occurred before, saves steps, and changes no token."""

from collections.abc import Callable

import msgspec
import pytest

from app.engine.ipc.messages import SamplingParams, Submit
from app.engine.speculative.prompt_lookup import PromptLookup
from tests.engine.tiny import TinyModel, ended, run

# A repetition penalty below 1 makes even random weights repeat themselves.
PARAMS = SamplingParams(max_tokens=60, temperature=0.0, repetition_penalty=0.5)
DRAWN = msgspec.structs.replace(PARAMS, temperature=0.7, seed=3, top_p=0.9)
PROMPT = "the cat sat on the mat, the cat sat on the"


@pytest.fixture
def gpt2(tiny_model: Callable[[str], TinyModel]) -> TinyModel:
    return tiny_model("gpt2")


def submit(name: str, params: SamplingParams = PARAMS) -> Submit:
    return Submit(name, params, prompt=PROMPT)


def continued(lookup: PromptLookup, ids: list[int], count: int) -> tuple[int, ...]:
    lookup.index(ids)
    return lookup.continuation(ids, count)


def test_continuation_repeats_what_followed_before() -> None:
    lookup = PromptLookup()
    assert continued(lookup, [1, 2, 3, 4, 5], 4) == ()
    assert continued(lookup, [1, 2, 3, 4, 5, 1, 2, 3], 2) == (4, 5)
    assert lookup.has_match
    assert continued(lookup, [1, 2, 3, 4, 5, 1, 2, 3, 9], 2) == ()
    assert not lookup.has_match


def test_continuation_goes_on_periodically() -> None:
    assert continued(PromptLookup(), [7, 8, 7, 8, 7, 8], 5) == (7, 8, 7, 8, 7)


def test_lookup_saves_steps_on_text_that_repeats_itself(gpt2: TinyModel) -> None:
    plain, speculating = gpt2.engine(speculation_rows=0), gpt2.engine()
    text = run(plain, submit("a")).texts["a"]
    assert run(speculating, submit("a")).texts["a"] == text
    assert speculating.steps < 0.7 * plain.steps
    assert speculating.accepted_tokens == plain.steps - speculating.steps, "each saves a step"
    assert speculating.draft_tokens >= speculating.accepted_tokens > speculating.drafts > plain.drafts == 0


@pytest.mark.parametrize("speculation_rows", [2, 5, 8])
def test_lookup_changes_no_drawn_token(gpt2: TinyModel, speculation_rows: int) -> None:
    text = run(gpt2.engine(speculation_rows=0), submit("a", DRAWN)).texts["a"]
    assert run(gpt2.engine(speculation_rows=speculation_rows), submit("a", DRAWN)).texts["a"] == text


def test_lookup_respects_max_tokens(gpt2: TinyModel) -> None:
    for max_tokens in range(1, 30):
        params = msgspec.structs.replace(PARAMS, max_tokens=max_tokens)
        plain, speculating = (
            ended(run(gpt2.engine(speculation_rows=rows), submit("a", params))) for rows in (0, 8)
        )
        assert (plain.usage, plain.finish_reason) == (speculating.usage, speculating.finish_reason)


def test_two_requests_share_the_speculation_rows(gpt2: TinyModel) -> None:
    speculating, plain = gpt2.engine(), gpt2.engine(speculation_rows=0)
    drawn = msgspec.structs.replace(PARAMS, temperature=0.5, seed=1)
    both = run(speculating, submit("a"), submit("b", drawn)).texts
    assert both == run(plain, submit("a"), submit("b", drawn)).texts
    assert speculating.steps < plain.steps
