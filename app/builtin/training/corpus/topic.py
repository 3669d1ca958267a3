"""The contract between the corpus's topics and the code that composes conversations from them.

A topic writes clean text only; system prompts, surface noise and the order of topics are `conversation`'s.
"""

import random
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exchange:
    """One user message and its right reply; `check` is what an evaluated reply must contain, in any case."""

    user: str
    reply: str
    check: str | None = None


Topic = Callable[[random.Random, bool], list[Exchange]]
"""`(rng, held_out)` to 1..6 consecutive exchanges; held-out stretches share no phrasing with training."""


def is_reserved(text: str) -> bool:
    """Whether training must never see `text` as a name, word or sum: one in eight is, by its checksum."""
    return zlib.crc32(text.lower().encode()) % 8 == 0


def share(texts: Iterable[str], held_out: bool) -> list[str]:
    """The part of `texts` that belongs to evaluation (`held_out`) or to training."""
    return [text for text in texts if is_reserved(text) == held_out]
