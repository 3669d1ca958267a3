"""Guesses are worth making, are given up where they are not, and change nothing but the number of steps."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from app.engine.core import EngineCore
from app.engine.ipc.messages import SamplingParams, Submit
from app.engine.speculative.prompt_lookup import AcceptanceRate, PromptLookup, best_count
from tests.engine.tiny import TinyModel, run

FREE = 0.0
# A repetition penalty below 1 makes even random weights repeat themselves.
PROMPT = "the cat sat on the mat, the cat sat on the"


@pytest.fixture
def gpt2(tiny_model: Callable[[str], TinyModel]) -> TinyModel:
    return tiny_model("gpt2")


def engine(tiny: TinyModel, speculation_rows: int) -> EngineCore:
    made = tiny.engine()
    made.limits = replace(made.limits, speculation_rows=speculation_rows)
    return made


def submit(name: str, **fields: object) -> Submit:
    params = {"max_tokens": 60, "temperature": 0.0, "repetition_penalty": 0.5} | fields
    return Submit(name, SamplingParams(**params), prompt=PROMPT)  # type: ignore[arg-type]


def test_guess_continues_what_was_seen() -> None:
    guesser = PromptLookup()
    assert guesser.guess([1, 2, 3, 4, 5], 4, FREE) == ()
    assert guesser.guess([1, 2, 3, 4, 5, 1, 2, 3], 2, FREE) == (4, 5)
    assert guesser.guess([1, 2, 3, 4, 5, 1, 2, 3, 9], 2, FREE) == ()


def test_guess_goes_on_with_a_period() -> None:
    assert PromptLookup().guess([7, 8, 7, 8, 7, 8], 5, FREE) == (7, 8, 7, 8, 7)


def test_guessing_rests_where_it_does_not_pay_and_longer_each_time() -> None:
    luck, length = AcceptanceRate(0.5), 0
    rests = []
    for _ in range(2):
        while count := luck.count(4, 0.3, length):
            luck.learn(count, 0)
            length += 1
        began = length
        while not luck.count(4, 0.3, length):
            length += 1
        rests.append(length - began)
    assert rests[1] > rests[0] > 32


def test_more_is_guessed_the_surer_and_the_cheaper_it_is() -> None:
    by_chance = [best_count(chance, 0.1, 7) for chance in (0.05, 0.3, 0.6, 0.9)]
    by_price = [best_count(0.6, price, 7) for price in (0.7, 0.3, 0.1, 0.0)]
    assert by_chance == sorted(set(by_chance)) and by_chance[0] == 0
    assert by_price == sorted(set(by_price)) and (by_price[0], by_price[-1]) == (0, 7)


def test_luck_turns() -> None:
    luck = AcceptanceRate(0.5)
    for _ in range(10):
        luck.learn(4, 4)
    assert luck.count(7, 0.1, 0) == 7
    for _ in range(10):
        luck.learn(4, 0)
    assert luck.count(7, 0.1, 0) < 3


def test_guesses_save_steps_on_text_that_repeats_itself(gpt2: TinyModel) -> None:
    plain, guessing = engine(gpt2, 0), engine(gpt2, 8)
    said = run(plain, submit("a")).texts["a"]
    assert run(guessing, submit("a")).texts["a"] == said
    assert guessing.steps < 0.7 * plain.steps


@pytest.mark.parametrize("speculation_rows", [2, 5, 8])
def test_guesses_change_no_draw(gpt2: TinyModel, speculation_rows: int) -> None:
    fields = {"temperature": 0.7, "seed": 3, "top_p": 0.9}
    said = run(engine(gpt2, 0), submit("a", **fields)).texts["a"]
    assert run(engine(gpt2, speculation_rows), submit("a", **fields)).texts["a"] == said


def test_guesses_respect_the_end(gpt2: TinyModel) -> None:
    for max_tokens in range(1, 30):
        ends = [run(engine(gpt2, rows), submit("a", max_tokens=max_tokens)).ends["a"] for rows in (0, 8)]
        assert ends[0].usage == ends[1].usage  # type: ignore[union-attr]
        assert ends[0].finish_reason == ends[1].finish_reason  # type: ignore[union-attr]


def test_guesses_of_two_share_the_guessing_rows(gpt2: TinyModel) -> None:
    guessing, plain = engine(gpt2, 8), engine(gpt2, 0)
    both = run(guessing, submit("a"), submit("b", temperature=0.5, seed=1)).texts
    assert both == run(plain, submit("a"), submit("b", temperature=0.5, seed=1)).texts
    assert guessing.steps < plain.steps
