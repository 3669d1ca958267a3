"""Finds how many servers a load needs, and what its tokens cost."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.capacity.records import Figures
from tests.capacity.simulation import Outcome, Scenario, simulate

_HOUR_S = 3600
_MOST_CONVERSATIONS = 65_536


@dataclass(frozen=True, slots=True)
class Goal:
    """What users should see. No turn may be refused."""

    first_token_p95_s: float = 2.0
    gap_s: float = 0.2  # mean time between tokens; people read about five words in a second

    def is_met(self, figures: Figures) -> bool:
        is_fast = figures.first_token_p95_s <= self.first_token_p95_s and figures.gap_s <= self.gap_s
        return is_fast and figures.refused == 0 and figures.turns > 0


@dataclass(frozen=True, slots=True)
class Sized:
    scenario: Scenario
    outcome: Outcome

    @property
    def memory_bytes(self) -> int:
        """Of one replica: its weights and the most keys and values that it held."""
        return self.scenario.costs.weights_bytes + self.outcome.most_kv_bytes

    def cost_per_million(self, price_per_hour: float) -> float:
        """Returns the price of a million tokens of replies, at a price of one replica's machine."""
        tokens_per_hour = self.outcome.figures.reply_tokens_per_s * _HOUR_S
        return 1e6 * price_per_hour * self.scenario.replicas / max(tokens_per_hour, 1e-9)


def fewest_replicas(scenario: Scenario, goal: Goal, most: int = 1024) -> Sized | None:
    """Returns the scenario with the fewest replicas that meet the goal, at most `most`; None if none do."""

    def run(replicas: int) -> Sized:
        sized = replace(scenario, replicas=replicas)
        return Sized(sized, simulate(sized))

    return _smallest(run, goal, most)


def most_conversations(scenario: Scenario, goal: Goal, most: int = _MOST_CONVERSATIONS) -> Sized | None:
    """Returns the scenario with the most conversations for which its replicas meet the goal."""

    def run(conversations: int) -> Sized:
        workload = replace(scenario.workload, conversations=conversations)
        sized = replace(scenario, workload=workload)
        return Sized(sized, simulate(sized))

    best, count = None, scenario.replicas
    while count <= most and goal.is_met((tried := run(count)).outcome.figures):
        best, count = tried, 2 * count
    if best is None or count > most:
        return best
    return _last_that_meets(goal, run, best, met=count // 2, missed=count, precision=1 / 16)


def _smallest(run: Callable[[int], Sized], goal: Goal, most: int) -> Sized | None:
    high, best = 1, run(1)
    while not goal.is_met(best.outcome.figures):
        if high == most:
            return None
        high = min(2 * high, most)
        best = run(high)
    return _last_that_meets(goal, run, best, met=high, missed=high // 2)


def _last_that_meets(
    goal: Goal, run: Callable[[int], Sized], best: Sized, *, met: int, missed: int, precision: float = 0.0
) -> Sized:
    """Returns the run next to the limit of the goal, which the number `met` meets and `missed` does not.

    `best` is the run with the number `met`. The result is exact, or within `precision` of the number.
    """
    while abs(met - missed) > max(1, int(precision * min(met, missed))):
        middle = (met + missed) // 2
        tried = run(middle)
        if goal.is_met(tried.outcome.figures):
            best, met = tried, middle
        else:
            missed = middle
    return best
