"""Invents words, places and people, so that the model learns to deal with unfamiliar names."""

import random
from functools import cache

from app.builtin.training.corpus.intents import data_table


@cache
def parts() -> dict[str, list[str]]:
    return data_table("inventions.toml")


def made_up_word(rng: random.Random, syllables: int | None = None) -> str:
    count = rng.randint(1, 3) if syllables is None else syllables
    while True:
        word = "".join(rng.choice(parts()[part]) for part in ("onsets", "vowels", "codas") * count)
        if not any(unwanted in word for unwanted in parts()["unwanted"]):
            return word


def made_up_place(rng: random.Random) -> str:
    return (made_up_word(rng, rng.randint(1, 2)) + rng.choice(parts()["land_endings"])).capitalize()


def stranger(rng: random.Random, held_out: bool = False) -> str:
    """Returns the full name of an invented person."""
    first = rng.choice(parts()["held_out_first_names" if held_out else "first_names"])
    if rng.random() < 0.2:
        first = made_up_word(rng, 2).capitalize()
    return f"{first} {made_up_word(rng, rng.randint(1, 2)).capitalize()}"
