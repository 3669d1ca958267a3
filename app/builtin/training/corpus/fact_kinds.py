"""The kinds of facts that people tell about themselves, with the wordings to tell, ask and repeat them.

Reads memory.toml. In a wording, `{v}` stands for the value and `{k}` for the thing that has this value.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from app.builtin.training.corpus.intents import data_table
from app.builtin.training.corpus.words import made_up_word, name, number, word

ValueMaker = Callable[[random.Random, bool], str]


@dataclass(frozen=True, slots=True)
class FactKind:
    """One kind of fact. `thing` distinguishes facts of the same kind, such as a favourite colour and food."""

    key: str
    value: ValueMaker
    thing: ValueMaker
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


_FREE_VALUES: dict[str, ValueMaker] = {"name": name, "word": word, "number": number, "age": _age}


def _listed_value(choices: list[str], invented: float, is_capital: bool) -> ValueMaker:
    """Makes values from a list, or invented ones, which the model can only repeat by copying."""

    def value(rng: random.Random, held_out: bool) -> str:
        if rng.random() < invented:
            text = made_up_word(rng, held_out)
            return text.capitalize() if is_capital else text
        return rng.choice(choices)

    return value


def _thing(entry: dict[str, Any]) -> ValueMaker:  # one TOML table
    things = entry.get("things", [""])
    return _FREE_VALUES[things] if isinstance(things, str) else lambda rng, held_out: rng.choice(things)


def _value(entry: dict[str, Any]) -> ValueMaker:  # one TOML table
    if "value" in entry:
        return _FREE_VALUES[entry["value"]]
    lists = data_table("memory.toml")["lists"]
    choices = [text for key in entry["lists"] for text in lists[key]]
    return _listed_value(choices, entry["invented"], entry.get("capital", False))


def _kind(entry: dict[str, Any]) -> FactKind:  # one TOML table
    return FactKind(
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
def kinds(table: str) -> tuple[FactKind, ...]:
    """Returns the kinds of facts about the user (`kind`, the name first) or about other people (`other`)."""
    return tuple(_kind(entry) for entry in data_table("memory.toml")[table])
