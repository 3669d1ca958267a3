"""Finding numbers of replicas and conversations, and prices."""

from dataclasses import replace

import pytest

from tests.capacity.records import percentile
from tests.capacity.replica import ServerLimits
from tests.capacity.server_costs import ServerCosts
from tests.capacity.simulation import Scenario, simulate
from tests.capacity.sizing import Goal, Sized, fewest_replicas, most_conversations
from tests.capacity.workload import Quantity, Workload

WORKLOAD = Workload(
    conversations=40,
    turns=Quantity(4),
    think_s=Quantity(3, 1.0),
    message_tokens=Quantity(40, 1.0),
    reply_tokens=Quantity(20, 0.7),
    duration_s=30,
    warm_up_s=5,
)
LIMITS = ServerLimits(20_000_000)
GOAL = Goal(first_token_p95_s=1.0)


def test_fewest_replicas_meet_the_goal_and_one_less_does_not(costs: ServerCosts) -> None:
    scenario = Scenario(costs, LIMITS, WORKLOAD)
    sized = fewest_replicas(scenario, GOAL)
    assert sized is not None and sized.scenario.replicas > 1
    assert GOAL.is_met(sized.outcome.figures)
    less = replace(scenario, replicas=sized.scenario.replicas - 1)
    assert not GOAL.is_met(simulate(less).figures)


def test_goal_that_no_number_meets_has_no_size(costs: ServerCosts) -> None:
    assert fewest_replicas(Scenario(costs, LIMITS, WORKLOAD), Goal(0.001), most=4) is None


def test_most_conversations_meet_the_goal(costs: ServerCosts) -> None:
    sized = most_conversations(Scenario(costs, LIMITS, WORKLOAD), GOAL)
    assert sized is not None and GOAL.is_met(sized.outcome.figures)
    assert 1 < sized.scenario.workload.conversations < 40


def test_price_of_a_million_tokens_is_that_of_the_hours_they_take(costs: ServerCosts) -> None:
    scenario = Scenario(costs, LIMITS, WORKLOAD, replicas=2)
    sized = Sized(scenario, simulate(scenario))
    hours = 1e6 / sized.outcome.figures.reply_tokens_per_s / 3600
    assert sized.cost_per_million(2.0) == pytest.approx(2.0 * hours * 2)


def test_percentile_is_the_value_that_a_share_does_not_exceed() -> None:
    assert percentile(range(100), 0.95) == 95
    assert percentile([3.0], 0.95) == 3.0
    assert percentile([], 0.5) == 0.0
