"""The kinds of facts that people tell: how they say one, ask for it again, and hear it back.

Reads memory.toml; `{v}` in a form stands for the value, `{k}` for the thing the value belongs to.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from app.builtin.training.corpus.intents import data_table
from app.builtin.training.corpus.words import made_up_word, name, number, word

Value = Callable[[random.Random, bool], str]


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fact; its `thing` tells apart facts of the same shape, such as favourites."""

    key: str
    value: Value
    thing: Value
    tells: tuple[str, ...]
    held_tells: tuple[str, ...]
    asks: tuple[str, ...]
    held_asks: tuple[str, ...]
    replies: tuple[str, ...]
    says: str
    missing: str
    weight: int = 2


def _age(rng: random.Random, held_out: bool) -> str:
    return str(rng.randint(3, 99))


_FREE_VALUES: dict[str, Value] = {"name": name, "word": word, "number": number, "age": _age}


def _listed_value(choices: list[str], invented: float, is_capital: bool) -> Value:
    """Values from a list, or made-up ones so that copying is what helps."""

    def value(rng: random.Random, held_out: bool) -> str:
        if rng.random() < invented:
            text = made_up_word(rng, held_out)
            return text.capitalize() if is_capital else text
        return rng.choice(choices)

    return value


def _thing(entry: dict[str, Any]) -> Value:  # one TOML table
    things = entry.get("things", [""])
    return _FREE_VALUES[things] if isinstance(things, str) else lambda rng, held_out: rng.choice(things)


def _value(entry: dict[str, Any]) -> Value:  # one TOML table
    if "value" in entry:
        return _FREE_VALUES[entry["value"]]
    lists = data_table("memory.toml")["lists"]
    choices = [text for key in entry["lists"] for text in lists[key]]
    return _listed_value(choices, entry["invented"], entry.get("capital", False))


def _kind(entry: dict[str, Any]) -> Kind:  # one TOML table
    return Kind(
        key=entry["key"],
        value=_value(entry),
        thing=_thing(entry),
        tells=tuple(entry["tells"]),
        held_tells=tuple(entry["held_tells"]),
        asks=tuple(entry["asks"]),
        held_asks=tuple(entry["held_asks"]),
        replies=tuple(entry["replies"]),
        says=entry["says"],
        missing=entry["missing"],
        weight=entry.get("weight", 2),
    )


@cache
def kinds(table: str) -> tuple[Kind, ...]:
    """The kinds of facts about the person (`kind`; the name comes first) or about others (`other`)."""
    return tuple(_kind(entry) for entry in data_table("memory.toml")[table])
