"""Working out the needs of daily users."""

import pytest

from tests.capacity.daily_users import DailyUse, needs
from tests.capacity.replica import ServerLimits
from tests.capacity.server_costs import ServerCosts
from tests.capacity.simulation import Scenario, simulate
from tests.capacity.sizing import Sized
from tests.capacity.workload import Quantity, Workload


def test_needs_grow_with_the_users(costs: ServerCosts) -> None:
    workload = Workload(20, think_s=Quantity(5), reply_tokens=Quantity(10), duration_s=60, warm_up_s=10)
    scenario = Scenario(costs, ServerLimits(20_000_000), workload, replicas=2)
    density, use = Sized(scenario, simulate(scenario)), DailyUse(turns=8.64, peak=2)
    few, many = needs(density, (10, 1_000_000), use, 0.01, 3.0)
    assert few.replicas == 1
    assert many.turns_per_s == pytest.approx(200)
    assert many.database_cores == pytest.approx(2)
    per_s = density.outcome.figures.turns / density.outcome.figures.seconds
    assert many.replicas == pytest.approx(200 / per_s * 2, abs=1)
    assert many.conversations == pytest.approx(200 / per_s * 20, abs=1)
    tokens_a_day = many.reply_tokens_per_s / 2 * 86_400
    assert many.price_per_million == pytest.approx(1e6 * many.replicas * 24 * 3 / tokens_a_day)
