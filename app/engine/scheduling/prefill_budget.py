"""Limits how much prefill shares a step with decodes, so that a long prompt does not stall other replies."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

_MAX_SLOWDOWN = 2.4  # duration of a step with prefill, in plain decode steps
_MIN_ROWS = 16  # fewer rows would delay the prompt by more than the other replies gain
_WORTHWHILE_SHARE = 0.2  # of the fixed cost of prefill: its rows may take this long in any case
_FEWEST_ROWS = 8  # of prefill; a step with fewer is not learnt from
_NEWEST_WEIGHT = 0.2  # weight of the newest step in the average of decodes
_NEWEST_STEPS = 16  # steps with prefill that the cost is estimated from
_MIN_RATIO = 1.5  # of the rows of two steps; the difference of closer ones is mostly noise
_PROPORTIONAL_VOTES = 4  # weight of a cost without fixed part, in pairs of steps
_LEAST_SHARE = 0.01  # of a step's prefill that depends on its rows, at least
_MAX_GROWTH = 2  # times the rows of the largest known step; what lies beyond is a guess


@dataclass(frozen=True, slots=True)
class PrefillCost:
    """What prefill adds to a step. A card mostly waits for the pass, a CPU for its rows."""

    fixed_s: float
    row_s: float
    most_rows: int  # of the steps that it was estimated from

    @classmethod
    def of(cls, steps: Sequence[tuple[int, float]]) -> "PrefillCost":
        """Returns the cost by the Theil-Sen estimator, which ignores outliers, of at least one step.

        `steps` are rows and seconds. As long as few of them differ in rows, all cost counts as cost of rows.
        """
        proportional_s = median(seconds / rows for rows, seconds in steps)
        slopes = [proportional_s] * _PROPORTIONAL_VOTES
        for (few, few_s), (many, many_s) in combinations(sorted(steps), 2):
            if many >= _MIN_RATIO * few:
                slopes.append((many_s - few_s) / (many - few))
        row_s = min(max(median(slopes), _LEAST_SHARE * proportional_s), proportional_s)
        fixed_s = max(median(seconds - row_s * rows for rows, seconds in steps), 0.0)
        return cls(fixed_s, row_s, max(rows for rows, _ in steps))

    def rows_in(self, seconds: float) -> int:
        """Returns how many rows fit. A pass that is worth its fixed cost may take longer."""
        rows_s = max(seconds - self.fixed_s, _WORTHWHILE_SHARE * self.fixed_s)
        most = _MAX_GROWTH * self.most_rows
        return most if rows_s >= most * self.row_s else int(rows_s / self.row_s)


class PrefillBudget:
    """Estimates the cost of a decode and of prefill from the durations of the newest steps.

    A step with prefill may take `unnoticed_s` in any case, however short a plain decode is.
    """

    def __init__(self, unnoticed_s: float = 0.0) -> None:
        self._unnoticed_s = unnoticed_s
        self._decode_s: float | None = None
        self._steps: deque[tuple[int, float]] = deque(maxlen=_NEWEST_STEPS)
        self._cost: PrefillCost | None = None

    def learn(self, seconds: float, prefill_rows: int) -> None:
        """Learn from a step that took `seconds` and computed `prefill_rows` in addition to its decodes."""
        if prefill_rows == 0:
            self._decode_s = _average(self._decode_s, seconds)
        elif prefill_rows >= _FEWEST_ROWS:
            self._steps.append((prefill_rows, max(seconds - (self._decode_s or 0.0), 0.0)))
            self._cost = PrefillCost.of(self._steps)

    def prefill_rows(self, limit: int) -> int:
        """Returns how many rows of prefill may share a step with decodes, at most `limit`."""
        if not self._decode_s or self._cost is None:
            return limit
        step_s = max(_MAX_SLOWDOWN * self._decode_s, self._unnoticed_s)
        return max(_MIN_ROWS, min(limit, self._cost.rows_in(step_s - self._decode_s)))


def _average(old: float | None, new: float) -> float:
    return new if old is None else (1 - _NEWEST_WEIGHT) * old + _NEWEST_WEIGHT * new
