"""Makes messages look as if people typed them: lower case, missing punctuation, typing errors."""

import random
import re


def _slip(rng: random.Random, word: str) -> str:
    i = rng.randrange(1, len(word) - 1)
    kind = rng.randrange(4)
    if kind == 0:
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if kind == 1:
        return word[:i] + word[i + 1 :]
    if kind == 2:
        return word[:i] + word[i] + word[i:]
    return word[:i] + rng.choice("abcdefghijklmnoprstuvwyz") + word[i + 1 :]


def _with_slip(rng: random.Random, text: str, kept: set[str]) -> str:
    words = text.split(" ")
    able = [
        i for i, word in enumerate(words) if word.isalpha() and len(word) > 3 and word.lower() not in kept
    ]
    if able:
        i = rng.choice(able)
        words[i] = _slip(rng, words[i])
    return " ".join(words)


def _lower(text: str, exact: set[str]) -> str:
    return re.sub(r"\w+", lambda found: found[0] if found[0] in exact else found[0].lower(), text)


def _upper(text: str, exact: set[str]) -> str:
    return re.sub(r"\w+", lambda found: found[0] if found[0] in exact else found[0].upper(), text)


def _is_shouted(rng: random.Random, exact: set[str], is_copied: bool) -> bool:
    """Decides whether the whole message is in capitals: often if it repeats such a word, else rarely."""
    if is_copied:
        return any(word.isupper() and len(word) > 2 for word in exact) and rng.random() < 0.7
    return rng.random() < 0.025


def as_typed(rng: random.Random, text: str, reply: str, is_copied: bool) -> str:
    """Returns `text` as a person may type it. Words that `reply` repeats have no typing errors.

    If the reply copies them (`is_copied`), they keep their case as well.
    """
    given_back = re.findall(r"\w+", reply)
    exact = set(given_back) if is_copied else set()
    if _is_shouted(rng, exact, is_copied):
        text = _upper(text, exact)
    elif rng.random() < 0.35:
        text = _lower(text, exact)
    if rng.random() < 0.1:
        names = [word for word in given_back[1:] if word[0].isupper()]
        text = _with_slip(rng, text, {word.lower() for word in (given_back if is_copied else names)})
    if rng.random() < 0.35:
        text = text.rstrip("?.! ") or text
    if rng.random() < 0.2:
        text = text.replace("'", "").replace(",", "")
    if rng.random() < 0.03:
        text += rng.choice(("?", "!", "??", " :)", "...", " please", "!!"))
    return text
