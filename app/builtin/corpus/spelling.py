"""Spelling words, repeating them, counting their letters and turning them round."""

import random

from app.builtin.corpus.intents import data_table
from app.builtin.corpus.topic import Exchange
from app.builtin.corpus.words import name, word


def _ask(rng: random.Random, kind: str, held_out: bool, text: str) -> str:
    forms = data_table("spelling.toml")[f"held_{kind}" if held_out else kind]
    return str(rng.choice(forms)).format(w=text)


def _spell(rng: random.Random, held_out: bool) -> Exchange:
    text = name(rng, held_out) if rng.random() < 0.2 else word(rng, held_out)
    letters = "-".join(text)
    return Exchange(
        _ask(rng, "spell", held_out, text),
        f"{text} is spelled {letters}.",
        letters,
    )


def _repeat(rng: random.Random, held_out: bool) -> Exchange:
    text = " ".join(word(rng, held_out) for _ in range(rng.choice((1, 1, 2, 3, 4))))
    if rng.random() < 0.35:
        text = rng.choice(data_table("spelling.toml")["sentences"]).format(w=text)
    if rng.random() < 0.3:
        text = text.capitalize()
    return Exchange(_ask(rng, "repeat", held_out, text), text, text)


def _count(rng: random.Random, held_out: bool) -> Exchange:
    text = word(rng, held_out)
    reply = f"{text} is spelled {'-'.join(text)}, so it has {len(text)} letters."
    return Exchange(_ask(rng, "count", held_out, text), reply, f"{len(text)} letters")


def _reverse(rng: random.Random, held_out: bool) -> Exchange:
    text = word(rng, held_out)
    letters = "-".join(reversed(text))
    reply = f"{'-'.join(text)} backwards is {letters}."
    return Exchange(_ask(rng, "reverse", held_out, text), reply, letters)


def exchanges(rng: random.Random, held_out: bool = False) -> list[Exchange]:
    """One to three small exercises with words."""
    makers = rng.choices((_spell, _repeat, _count, _reverse), (45, 40, 8, 7), k=rng.choice((1, 1, 2, 3)))
    return [maker(rng, held_out) for maker in makers]
