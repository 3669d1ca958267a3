"""The interface between the corpus's topics and the code that composes conversations from them.

A topic writes clean text. The `composition` module adds system prompts and noise, and orders the topics.
"""

import random
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exchange:
    """One user message and its right reply. An evaluated reply must contain `check`, in any letter case."""

    user: str
    reply: str
    check: str | None = None


Topic = Callable[[random.Random, bool], list[Exchange]]
"""Takes `(rng, held_out)` and returns 1 to 6 consecutive exchanges.

Held-out exchanges are for evaluation, and share no wording with those for training.
"""


def is_reserved(text: str) -> bool:
    """Whether `text` is for evaluation only, as a name, word or sum. By checksum, one in eight texts is."""
    return zlib.crc32(text.lower().encode()) % 8 == 0


def share(texts: Iterable[str], held_out: bool) -> list[str]:
    """Those of `texts` that are for evaluation (`held_out`), or else for training."""
    return [text for text in texts if is_reserved(text) == held_out]
