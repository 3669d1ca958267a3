"""Defines the questions of the held-out evaluation and the tests for their replies.

Names, numbers and wordings come from the held-out part of the corpus.
"""

import random
import re
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from typing import Any

from app.builtin.training.answering import TrainingMessage
from app.builtin.training.corpus import persona
from app.builtin.training.corpus.fact_kinds import FactKind, kinds
from app.builtin.training.corpus.recall import FactMemory
from app.builtin.training.corpus.topic import Exchange, Topic
from app.builtin.training.corpus.topics import (
    arithmetic,
    capitals,
    code,
    commands,
    facts,
    smalltalk,
    spelling,
    unknown,
)

_BETWEEN: tuple[Topic, ...] = (
    smalltalk.exchanges, capitals.exchanges, facts.exchanges, unknown.exchanges, arithmetic.exchanges,
    commands.exchanges, code.exchanges,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Question:
    """A conversation that ends with a user message. `is_right` tests a reply to it."""

    messages: list[TrainingMessage]
    is_right: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class Measure:
    """One ability to measure. `make` makes a question; the share `goal` of `count` replies must be right."""

    name: str
    make: Callable[[random.Random], Question]
    count: int
    goal: float


def _messages(exchanges: list[Exchange], system: str | None = None) -> list[TrainingMessage]:
    """Returns the exchanges as messages, without the last reply."""
    messages = [] if system is None else [{"role": "system", "content": system}]
    for exchange in exchanges:
        messages.append({"role": "user", "content": exchange.user})
        messages.append({"role": "assistant", "content": exchange.reply})
    return messages[:-1]


def _contains(check: str) -> Callable[[str], bool]:
    return lambda reply: check.lower() in reply.lower()


def _equals(expected: str) -> Callable[[str], bool]:
    return lambda reply: reply.strip().lower() == expected.lower()


def _checked(topic: Topic) -> Callable[[random.Random], Question]:
    """Makes questions from those held-out exchanges of a topic that have a `check`."""

    def make(rng: random.Random) -> Question:
        while True:
            stretch = topic(rng, True)
            for end, exchange in enumerate(stretch, 1):
                if exchange.check is not None:
                    return Question(_messages(stretch[:end]), _contains(exchange.check))

    return make


def _between(rng: random.Random, count: int) -> list[Exchange]:
    found: list[Exchange] = []
    while len(found) < count:
        found += rng.choice(_BETWEEN)(rng, True)
    return found[:count]


def _recall(rng: random.Random, kind: FactKind | None = None) -> Question:
    memory = FactMemory(rng, held_out=True)
    told = memory.tell(kind)
    asked = memory.recall()
    between = _between(rng, rng.randint(1, 3))
    return Question(_messages([told, *between, asked]), _contains(asked.check or ""))


def _recall_of_name(rng: random.Random) -> Question:
    return _recall(rng, kinds("kind")[0])


def _recall_of_two(rng: random.Random) -> Question:
    memory = FactMemory(rng, held_out=True)
    told = [memory.tell(), *_between(rng, 1), memory.tell()]
    asked = memory.recall()
    return Question(
        _messages([*told, *_between(rng, rng.randint(1, 2)), asked]), _contains(asked.check or "")
    )


def _never_told(rng: random.Random) -> Question:
    memory = FactMemory(rng, held_out=True)
    told = memory.tell()
    return Question(_messages([told, *_between(rng, 1), memory.ask_untold()]), _contains("have not told me"))


def _plain_capital(rng: random.Random, held_out: bool) -> list[Exchange]:
    return [capitals.capital_question(rng, held_out)]


def _sum(operator: str) -> Callable[[random.Random], Question]:
    def make(rng: random.Random) -> Question:
        asked = arithmetic.calculation(rng, True, operator)
        return Question(_messages([asked]), _contains(asked.check or ""))

    return make


def _passes(tests: tuple[str, ...]) -> Callable[[str], bool]:
    def is_right(reply: str) -> bool:
        block = re.search(r"```python\n(.*?)```", reply, re.DOTALL)
        if block is None:
            return False
        names: dict[str, Any] = {}  # the code may define anything
        try:
            with redirect_stdout(StringIO()):
                exec(block[1], names)  # the model writes only the few functions it was taught
                return all(eval(test, names) for test in tests)
        except Exception:
            return False

    return is_right


def _function(rng: random.Random) -> Question:
    snippet = rng.choice(list(code.functions().values()))
    asked = code.function_request(snippet.name, rng, held_out=True)
    return Question(_messages([asked]), _passes(snippet.tests))


def _in_style(key: str, *asked_of: Topic) -> Callable[[random.Random], Question]:
    def make(rng: random.Random) -> Question:
        style = persona.style(rng, True, key)
        while True:
            asked = rng.choice(asked_of)(rng, True)[0]
            wanted = style.restyle(asked)
            if wanted is not None:
                return Question(_messages([asked], style.prompt), _equals(wanted))

    return make


def _given_name(rng: random.Random) -> Question:
    given = persona.named(rng, True)
    return Question(_messages([rng.choice(given.own)], given.prompt), _contains(given.own[0].check or ""))


def _alone(topic: Topic) -> Callable[[random.Random], Question]:
    def make(rng: random.Random) -> Question:
        asked = topic(rng, True)[0]
        return Question(_messages([asked]), _contains(asked.check or ""))

    return make


MEASURES = (
    Measure("recall across 1-3 turns", _recall, 300, 0.95),
    Measure("recall of a name", _recall_of_name, 150, 0.95),
    Measure("recall of one of two facts", _recall_of_two, 150, 0.9),
    Measure("asked for what was never told", _never_told, 100, 0.9),
    Measure("capitals", _checked(_plain_capital), 300, 0.95),
    Measure("countries, continents and follow-ups", _checked(capitals.exchanges), 150, 0.85),
    Measure("plain facts", _checked(facts.exchanges), 200, 0.9),
    Measure("sums below 100", _sum("+"), 300, 0.95),
    Measure("differences below 100", _sum("-"), 150, 0.9),
    Measure("small products", _sum("*"), 100, 0.9),
    Measure("spelling and repeating", _alone(spelling.exchanges), 150, 0.9),
    Measure("Python that passes its test", _function, 150, 0.9),
    Measure("this program's commands", _checked(commands.exchanges), 150, 0.9),
    Measure("says that it does not know", _alone(unknown.exchanges), 200, 0.9),
    Measure("system prompt: one word", _in_style("one_word", _plain_capital), 60, 0.9),
    Measure("system prompt: upper case", _in_style("upper", _plain_capital, arithmetic.exchanges), 60, 0.9),
    Measure("system prompt: pirate", _in_style("pirate", _plain_capital, arithmetic.exchanges), 60, 0.9),
    Measure("system prompt: a name", _given_name, 60, 0.9),
)
