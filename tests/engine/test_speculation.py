"""Guesses are worth making, are given up where they are not, and change nothing but the number of steps."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from app.engine.engine import Engine
from app.engine.messages import SamplingParams, Submit
from app.engine.speculation import Guesser
from tests.engine.tiny import TinyModel, run

# A repetition penalty below 1 makes even random weights repeat themselves.
PROMPT = "the cat sat on the mat, the cat sat on the"


@pytest.fixture
def gpt2(tiny_model: Callable[[str], TinyModel]) -> TinyModel:
    return tiny_model("gpt2")


def engine(tiny: TinyModel, free_rows: int) -> Engine:
    made = tiny.engine()
    made.limits = replace(made.limits, free_rows=free_rows)
    return made


def submit(name: str, **fields: object) -> Submit:
    params = {"max_tokens": 60, "temperature": 0.0, "repetition_penalty": 0.5} | fields
    return Submit(name, SamplingParams(**params), prompt=PROMPT)  # type: ignore[arg-type]


def test_guess_continues_what_was_seen() -> None:
    guesser = Guesser()
    assert guesser.guess([1, 2, 3, 4, 5], 4) == ()
    assert guesser.guess([1, 2, 3, 4, 5, 1, 2, 3], 2) == (4, 5)
    assert guesser.guess([1, 2, 3, 4, 5, 1, 2, 3, 9], 2) == ()


def test_guess_goes_on_with_a_period() -> None:
    assert Guesser().guess([7, 8, 7, 8, 7, 8], 5) == (7, 8, 7, 8, 7)


def test_guessing_rests_where_it_does_not_pay_and_longer_each_time() -> None:
    guesser, ids = Guesser(), [7] * 10
    rests = []
    for _ in range(2):
        while guesser.guess(ids, 4):
            guesser.learn(4, 0, len(ids))
            ids.append(7)
        began = len(ids)
        while not guesser.guess(ids, 4):
            ids.append(7)
        rests.append(len(ids) - began)
    assert rests[1] > rests[0] > 32


def test_guesses_save_steps_on_text_that_repeats_itself(gpt2: TinyModel) -> None:
    plain, guessing = engine(gpt2, 0), engine(gpt2, 8)
    said = run(plain, submit("a")).texts["a"]
    assert run(guessing, submit("a")).texts["a"] == said
    assert guessing.steps < 0.7 * plain.steps


@pytest.mark.parametrize("free_rows", [2, 5, 8])
def test_guesses_change_no_draw(gpt2: TinyModel, free_rows: int) -> None:
    fields = {"temperature": 0.7, "seed": 3, "top_p": 0.9}
    said = run(engine(gpt2, 0), submit("a", **fields)).texts["a"]
    assert run(engine(gpt2, free_rows), submit("a", **fields)).texts["a"] == said


def test_guesses_respect_the_end(gpt2: TinyModel) -> None:
    for max_tokens in range(1, 30):
        ends = [run(engine(gpt2, rows), submit("a", max_tokens=max_tokens)).ends["a"] for rows in (0, 8)]
        assert ends[0].usage == ends[1].usage  # type: ignore[union-attr]
        assert ends[0].finish_reason == ends[1].finish_reason  # type: ignore[union-attr]


def test_guesses_of_two_share_the_free_rows(gpt2: TinyModel) -> None:
    guessing, plain = engine(gpt2, 8), engine(gpt2, 0)
    both = run(guessing, submit("a"), submit("b", temperature=0.5, seed=1)).texts
    assert both == run(plain, submit("a"), submit("b", temperature=0.5, seed=1)).texts
    assert guessing.steps < plain.steps
