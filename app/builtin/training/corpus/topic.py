"""Defines the interface between the corpus's topics and the code that composes conversations from them.

A topic writes clean text. The `composition` module orders the topics and adds system prompts and noise.
"""

import random
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Exchange:
    """One user message and its right reply. In the evaluation a reply must contain `check`, in any case."""

    user: str
    reply: str
    check: str | None = None


Topic = Callable[[random.Random, bool], list[Exchange]]
"""Takes `(rng, held_out)` and returns 1 to 6 consecutive exchanges.

Held-out exchanges are for evaluation, and share no wording with those for training.
"""


def is_reserved(text: str) -> bool:
    """Returns whether a name, word or sum is for evaluation only. The checksum decides, for one in eight."""
    return zlib.crc32(text.lower().encode()) % 8 == 0


def share(texts: Iterable[str], held_out: bool) -> list[str]:
    """Returns the texts for evaluation if `held_out`, otherwise those for training."""
    return [text for text in texts if is_reserved(text) == held_out]
