"""Exercises with words: spelling, repeating, counting letters, reversing, and writing in capitals.

A token does not show its letters, so training spells every word of the corpus, and words joined from two.
"""

import random

from app.builtin.training.corpus.intents import data_table, expand
from app.builtin.training.corpus.topic import Exchange
from app.builtin.training.corpus.words import joined, name, word, written

_CAPITAL_SHARE = 0.1


def _ask(rng: random.Random, kind: str, held_out: bool, text: str) -> str:
    forms = data_table("spelling.toml")[f"held_{kind}" if held_out else kind]
    return expand(rng.choice(forms), rng).format(w=text)


def _any_word(rng: random.Random, held_out: bool) -> str:
    """Returns a word. Evaluation uses fewer kinds of words than training, so that scores stay comparable."""
    if held_out:
        return word(rng, True)
    source = rng.choices((word, written, joined), (35, 35, 30))[0]
    text = source(rng, False)
    return text.capitalize() if rng.random() < _CAPITAL_SHARE else text


def _word_or_name(rng: random.Random, held_out: bool) -> str:
    return name(rng, held_out) if rng.random() < 0.2 else _any_word(rng, held_out)


def _spell(rng: random.Random, held_out: bool) -> Exchange:
    text = _word_or_name(rng, held_out)
    letters = "-".join(text)
    return Exchange(
        _ask(rng, "spell", held_out, text),
        f"{text} is spelled {letters}.",
        letters,
    )


def _repeat(rng: random.Random, held_out: bool) -> Exchange:
    lengths = (1, 1, 2, 3, 4) if held_out else (1, 2, 3, 4, 5, 6)
    text = " ".join(_any_word(rng, held_out) for _ in range(rng.choice(lengths)))
    if rng.random() < 0.35:
        text = rng.choice(data_table("spelling.toml")["sentences"]).format(w=text)
    if rng.random() < 0.3:
        text = text.capitalize()
    return Exchange(_ask(rng, "repeat", held_out, text), text, text)


def _count(rng: random.Random, held_out: bool) -> Exchange:
    text = _any_word(rng, held_out)
    reply = f"{text} is spelled {'-'.join(text)}, so it has {len(text)} letters."
    return Exchange(_ask(rng, "count", held_out, text), reply, f"{len(text)} letters")


def _reverse(rng: random.Random, held_out: bool) -> Exchange:
    text = _any_word(rng, held_out)
    letters = "-".join(reversed(text))
    reply = f"{'-'.join(text)} backwards is {letters}."
    return Exchange(_ask(rng, "reverse", held_out, text), reply, letters)


def _in_capitals(rng: random.Random) -> Exchange:
    text = " ".join(_any_word(rng, False) for _ in range(rng.choice((1, 1, 2, 3))))
    return Exchange(_ask(rng, "upper", False, text), text.upper(), text.upper())


def _exercise(rng: random.Random, held_out: bool) -> Exchange:
    if not held_out and rng.random() < 0.14:
        return _in_capitals(rng)
    maker = rng.choices((_spell, _repeat, _count, _reverse), (45, 40, 8, 7))[0]
    return maker(rng, held_out)


def exchanges(rng: random.Random, held_out: bool = False) -> list[Exchange]:
    """Returns one to three small exercises with words."""
    return [_exercise(rng, held_out) for _ in range(rng.choice((1, 1, 2, 3)))]
