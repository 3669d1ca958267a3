"""Owns how much prefill may join a step, so that a long prompt does not silence those who are talking.

Learns from the steps' own durations what a decode and a further row cost. Knows no torch, no requests.
"""

_STRETCH = 2.5  # times a decode that a step may take with prefill beside it
_LEAST = 16  # rows; less would let the prompt wait for longer than it spares the others
_NEWEST = 0.2  # weight of the newest step in the averages


class PrefillBudget:
    """Averages over the steps so far, in seconds."""

    def __init__(self) -> None:
        self._decode_s: float | None = None
        self._row_s: float | None = None

    def learn(self, seconds: float, prefill_rows: int) -> None:
        """A step took `seconds` and had this many rows beside its decodes."""
        if prefill_rows == 0:
            self._decode_s = _average(self._decode_s, seconds)
        elif prefill_rows >= _LEAST:
            self._row_s = _average(self._row_s, max(seconds - (self._decode_s or 0.0), 0.0) / prefill_rows)

    def prefill_rows(self, most: int) -> int:
        """How many rows of prefill may share a step with decodes, `most` at the most."""
        if not self._decode_s or not self._row_s:
            return most
        return max(_LEAST, min(most, int((_STRETCH - 1) * self._decode_s / self._row_s)))


def _average(old: float | None, new: float) -> float:
    return new if old is None else (1 - _NEWEST) * old + _NEWEST * new
