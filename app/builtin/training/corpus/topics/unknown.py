"""Questions that the model cannot answer. It says so and recommends a larger model."""

import random
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from typing import Any

from app.builtin.training.corpus.intents import SLOT, data_table, expand, fill
from app.builtin.training.corpus.invention import made_up_word, stranger
from app.builtin.training.corpus.topic import Exchange
from app.builtin.training.corpus.topics.capitals import countries
from app.builtin.training.corpus.wrapping import sometimes_wrapped

DOMINANT_SHARE = 0.9  # one dominant wording, so that greedy decoding is certain of it
CHECK = "don't know"


@dataclass(frozen=True, slots=True)
class Group:
    """Questions of one kind, which get the same kind of reply."""

    ask: tuple[str, ...]
    held_out: tuple[str, ...]
    replies: tuple[str, ...]
    weight: float


@cache
def table() -> dict[str, Any]:  # TOML: replies, groups and word lists
    return data_table("unknown.toml")


@cache
def groups() -> tuple[Group, ...]:
    return tuple(
        Group(
            ask=tuple(entry["ask"]),
            held_out=tuple(entry["held_out"]),
            replies=tuple(table()["replies"][entry["reply"]]),
            weight=entry["weight"],
        )
        for entry in table()["group"]
    )


@cache
def cumulative_weights() -> tuple[float, ...]:
    return tuple(accumulate(group.weight for group in groups()))


def exchanges(rng: random.Random, held_out: bool = False) -> list[Exchange]:
    """Returns one or two questions that the model cannot answer."""
    count = 2 if rng.random() < 0.2 else 1
    stretch = [_exchange(rng, held_out) for _ in range(count)]
    return stretch if held_out else [sometimes_wrapped(exchange, rng) for exchange in stretch]


def _exchange(rng: random.Random, held_out: bool) -> Exchange:
    group = rng.choices(groups(), cum_weights=cumulative_weights())[0]
    template = expand(rng.choice(group.held_out if held_out else group.ask), rng)
    words = {slot: _word(slot.rstrip("2"), rng, held_out) for slot in SLOT.findall(template)}
    reply = group.replies[0] if rng.random() < DOMINANT_SHARE else rng.choice(group.replies)
    return Exchange(fill(template, words), reply, CHECK)


def _word(kind: str, rng: random.Random, held_out: bool) -> str:
    """Returns a word for a slot: an item of a list, or an invented word."""
    match kind:
        case "word":
            return made_up_word(rng)
        case "person":
            return stranger(rng, held_out) if held_out or rng.random() < 0.6 else _celebrity(rng)
        case "country":
            return rng.choice(countries()).name
        case "big":
            return str(rng.randint(12, 9999) if rng.random() < 0.5 else rng.randint(12, 150))
        case "small":
            return str(rng.randint(2, 30))
        case "year":
            return str(rng.randint(1200, 2040))
    return str(rng.choice(table()["lists"][f"held_out_{kind}" if held_out else kind]))


def _celebrity(rng: random.Random) -> str:
    return str(rng.choice(table()["lists"]["celebrity"]))
