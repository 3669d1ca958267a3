"""The evaluation's questions, and a small sample of them asked of the shipped weights."""

import random

import pytest

from app.builtin.training.answering import WEIGHTS, Answerer
from app.builtin.training.evaluate import score
from app.builtin.training.measures import MEASURES, Measure

SAMPLED = ("recall across 1-3 turns", "capitals", "sums below 100", "Python that passes its test")


@pytest.fixture(scope="module")
def answerer() -> Answerer:
    return Answerer.from_folder(WEIGHTS)


@pytest.mark.parametrize("measure", MEASURES, ids=lambda measure: measure.name)
def test_measures_ask_the_same_questions_for_the_same_seed(measure: Measure) -> None:
    first, second = (measure.make(random.Random(9)) for _ in range(2))
    assert first.messages == second.messages
    assert first.messages[-1]["role"] == "user"
    assert not first.is_right("")


@pytest.mark.parametrize("name", SAMPLED)
def test_shipped_weights_reach_most_of_their_goals(name: str, answerer: Answerer) -> None:
    measure = next(measure for measure in MEASURES if measure.name == name)
    assert score(measure, answerer, part=0.1).share >= 0.85


def test_shipped_weights_hold_the_example_conversation(answerer: Answerer) -> None:
    messages: list[dict[str, str]] = []
    for said, expected in (
        ("Hello! Can you help me write a Python function?", "function"),
        ("A function that calculates the factorial of a number", "def factorial("),
        ("My name is Ada", "Ada"),
        ("What is the capital of France?", "Paris"),
        ("What is my name?", "Ada"),
    ):
        messages.append({"role": "user", "content": said})
        reply = answerer.replies([messages])[0]
        assert expected in reply
        messages.append({"role": "assistant", "content": reply})
