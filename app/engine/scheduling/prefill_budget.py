"""Limits how much prefill shares a step with decodes, so that a long prompt does not stall other replies."""

_MAX_SLOWDOWN = 2.5  # duration of a step with prefill, in plain decode steps
_MIN_ROWS = 16  # fewer rows would delay the prompt by more than the other replies gain
_NEWEST_WEIGHT = 0.2  # weight of the newest step in the averages


class PrefillBudget:
    """Estimates the cost of a decode and of a further row as moving averages over the durations of steps.

    A step with prefill may take `unnoticed_s` in any case, however short a plain decode is.
    """

    def __init__(self, unnoticed_s: float = 0.0) -> None:
        self._unnoticed_s = unnoticed_s
        self._decode_s: float | None = None
        self._row_s: float | None = None

    def learn(self, seconds: float, prefill_rows: int) -> None:
        """Learn from a step that took `seconds` and computed `prefill_rows` in addition to its decodes."""
        if prefill_rows == 0:
            self._decode_s = _average(self._decode_s, seconds)
        elif prefill_rows >= _MIN_ROWS:
            self._row_s = _average(self._row_s, max(seconds - (self._decode_s or 0.0), 0.0) / prefill_rows)

    def prefill_rows(self, limit: int) -> int:
        """Returns how many rows of prefill may share a step with decodes, at most `limit`."""
        if not self._decode_s or not self._row_s:
            return limit
        step_s = max(_MAX_SLOWDOWN * self._decode_s, self._unnoticed_s)
        return max(_MIN_ROWS, min(limit, int((step_s - self._decode_s) / self._row_s)))


def _average(old: float | None, new: float) -> float:
    return new if old is None else (1 - _NEWEST_WEIGHT) * old + _NEWEST_WEIGHT * new
