"""Owns how numbers are said: counted things, sizes, ages, and a row of them as a little picture."""

import math
import time
from collections.abc import Sequence

_AGES = ((86_400, "day"), (3_600, "hour"), (60, "minute"))
_LEVELS = "▁▂▃▄▅▆▇█"
_CHARACTERS_PER_TOKEN = 4  # of English, about


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def size_of(size_bytes: float) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size_bytes >= limit:
            return f"{size_bytes / limit:.1f} {unit}" if limit == 1e9 else f"{size_bytes / limit:.0f} {unit}"
    return f"{size_bytes:.0f} bytes"


def tokens_about(text: str) -> str:
    """Only the server knows how many they are."""
    return f"about {math.ceil(len(text) / _CHARACTERS_PER_TOKEN):,} tokens"


def age_of(changed_at: float) -> str:
    """How long ago, in the largest unit that is whole."""
    passed_s = max(0, int(time.time() - changed_at))
    for seconds, unit in _AGES:
        if passed_s >= seconds:
            return f"{count(passed_s // seconds, unit)} ago"
    return "just now"


def duration_of(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def gauge(share: float, cells: int = 8) -> str:
    filled = min(cells, math.ceil(share * cells))
    return "█" * filled + "░" * (cells - filled)


def sparkline(values: Sequence[float]) -> str:
    """Each value as a bar, from nothing to the largest of them."""
    most = max(values, default=0) or 1
    return "".join(_LEVELS[min(len(_LEVELS) - 1, int(value / most * len(_LEVELS)))] for value in values)
