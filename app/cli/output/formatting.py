"""Formats counts, sizes, ages and durations for a person, and removes control characters from text."""

import math
import time
from collections.abc import Sequence

from rich.cells import cell_len, chop_cells

_CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)))
_CONTROLS_BUT_LINES = dict.fromkeys(code for code in _CONTROLS if chr(code) not in "\n\t")
_AGES = ((86_400, "day"), (3_600, "hour"), (60, "minute"))
_LEVELS = "▁▂▃▄▅▆▇█"
_CHARACTERS_PER_TOKEN = 4  # a rule of thumb for English


def count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def format_size(size_bytes: float) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size_bytes >= limit:
            return f"{size_bytes / limit:.1f} {unit}" if limit == 1e9 else f"{size_bytes / limit:.0f} {unit}"
    return f"{size_bytes:.0f} bytes"


def estimated_tokens(text: str) -> str:
    """Returns an estimate, for when the server cannot count."""
    return f"about {math.ceil(len(text) / _CHARACTERS_PER_TOKEN):,} tokens"


def format_age(changed_at: float) -> str:
    """Returns how long ago a time (in seconds since the epoch) was, in its largest unit."""
    passed_s = max(0, int(time.time() - changed_at))
    for seconds, unit in _AGES:
        if passed_s >= seconds:
            return f"{count(passed_s // seconds, unit)} ago"
    return "just now"


def format_duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def gauge(share: float, cells: int = 8) -> str:
    filled = min(cells, math.ceil(share * cells))
    return "█" * filled + "░" * (cells - filled)


def sparkline(values: Sequence[float]) -> str:
    """Returns one bar for each value, relative to the largest."""
    most = max(values, default=0) or 1
    return "".join(_LEVELS[min(len(_LEVELS) - 1, int(value / most * len(_LEVELS)))] for value in values)


def first_words(text: str, width: int) -> str:
    """Returns the beginning of the text in one line of at most `width` cells, without control characters."""
    words = without_controls(" ".join(text[: 4 * width].split()))
    if len(text) <= 4 * width and cell_len(words) <= width:
        return words
    return f"{chop_cells(words, max(1, width - 3))[0].rstrip()}..." if words else "..."


def without_controls(text: str, keeps_lines: bool = True) -> str:
    """Returns the text without control characters, with which a model could manipulate the terminal.

    Newlines and tabs are kept if `keeps_lines`.
    """
    return text.translate(_CONTROLS_BUT_LINES if keeps_lines else _CONTROLS)
