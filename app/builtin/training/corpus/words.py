"""Generates names and words from syllables, so that the model learns to copy and not to recite a list.

Each made-up or listed word is used either in training or in evaluation, never in both.
"""

import random
from functools import cache

from app.builtin.training.corpus.intents import data_table, data_words
from app.builtin.training.corpus.topic import is_reserved, share

_LONGEST = 12
_CLOSED_SHARE = 0.7  # made-up words that end in a consonant


@cache
def listed(key: str, held_out: bool) -> list[str]:
    """Returns the listed `names` or `words` for evaluation or for training."""
    return share(data_table("words.toml")[key].split(), held_out)


@cache
def _syllable_parts(key: str) -> list[str]:
    return str(data_table("words.toml")[key]).split()


def _made_up(rng: random.Random) -> str:
    onsets, vowels, codas = (_syllable_parts(key) for key in ("onsets", "vowels", "codas"))
    syllables = rng.choice((1, 2, 2, 2, 3))
    text = "".join(rng.choice(onsets) + rng.choice(vowels) for _ in range(syllables))
    if rng.random() < _CLOSED_SHARE:
        text += rng.choice(codas)
    return (text[1:] if rng.random() < 0.15 and len(text) > 4 else text)[:9]


def made_up_word(rng: random.Random, held_out: bool) -> str:
    """Returns a pronounceable word of 2 to 9 letters, usually without a meaning."""
    while True:
        word = _made_up(rng)
        if is_reserved(word) == held_out:
            return word


def name(rng: random.Random, held_out: bool) -> str:
    """Returns a real or made-up first name, sometimes with a family name."""
    first = _first_name(rng, held_out)
    return f"{first} {made_up_word(rng, held_out).capitalize()}" if rng.random() < 0.08 else first


def _first_name(rng: random.Random, held_out: bool) -> str:
    if rng.random() < 0.45:
        return rng.choice(listed("names", held_out))
    return made_up_word(rng, held_out).capitalize()


def word(rng: random.Random, held_out: bool) -> str:
    """Returns a common or made-up word in lower case."""
    if rng.random() < 0.6:
        return rng.choice(listed("words", held_out))
    return made_up_word(rng, held_out)


@cache
def _share_of_data(held_out: bool) -> list[str]:
    return share(data_words(), held_out)


def written(rng: random.Random, held_out: bool) -> str:
    """Returns a random word of the corpus's data files, in lower case."""
    return rng.choice(_share_of_data(held_out))


def joined(rng: random.Random, held_out: bool) -> str:
    """Returns the beginning of one word of the data files and the end of another, joined into a new word."""
    while True:
        first, second = written(rng, held_out), written(rng, held_out)
        text = first[: rng.randint(1, len(first))] + second[rng.randrange(len(second)) :]
        if 2 <= len(text) <= _LONGEST and is_reserved(text) == held_out:
            return text


def number(rng: random.Random, held_out: bool) -> str:
    """Returns a number of one to five digits to remember, not to calculate with."""
    while True:
        text = str(rng.randrange(10 ** rng.choice((1, 2, 2, 3, 4, 4, 5))))
        if is_reserved(text) == held_out:
            return text
