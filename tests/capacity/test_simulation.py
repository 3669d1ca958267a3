"""The simulation: what must hold for any load, and one turn worked out by hand."""

from dataclasses import replace

import pytest
import simpy
from hypothesis import given, settings, strategies as st

from tests.capacity.host import Host, Wait
from tests.capacity.replica import ServerLimits
from tests.capacity.server_costs import ServerCosts
from tests.capacity.simulation import Routing, Scenario, simulate
from tests.capacity.step_times import Curve, StepTimes
from tests.capacity.workload import Quantity, Workload

LIMITS = ServerLimits(kv_cache_bytes=8_000_000)
SHORT = Workload(
    conversations=12,
    turns=Quantity(4, 0.5),
    think_s=Quantity(3, 1.0),
    message_tokens=Quantity(40, 1.0),
    reply_tokens=Quantity(20, 0.7),
    duration_s=60,
    warm_up_s=10,
)


def test_one_turn_takes_the_sum_of_its_parts(costs: ServerCosts) -> None:
    once = replace(SHORT, conversations=1, turns=Quantity(1), think_s=Quantity(50))
    workload = replace(once, message_tokens=Quantity(32), reply_tokens=Quantity(3), warm_up_s=0)
    (record,) = simulate(Scenario(costs, LIMITS, workload)).records
    prompt = 4 + 32
    prefill_s = costs.step.rows.at(prompt) + 1e-8 * prompt * prompt / 2
    wait_s = 0.002 + 0.001 + 1e-6 * prompt + prefill_s + 0.0001
    assert record.prompt_tokens == prompt
    assert record.wait_s == pytest.approx(wait_s)
    decodes_s = 2 * 0.02 + 1e-6 * (2 * prompt + 3)
    assert record.ended_s == pytest.approx(50 + wait_s + decodes_s + 0.001)


@settings(max_examples=15, deadline=None)
@given(
    conversations=st.integers(1, 20),
    replicas=st.integers(1, 3),
    routing=st.sampled_from(("affinity", "random")),
    keeps_kv=st.booleans(),
    kv_tokens=st.integers(1024, 6000),
    queued=st.integers(0, 8),
    seed=st.integers(0, 99),
)
def test_every_turn_ends_once_answered_or_refused(
    costs: ServerCosts,
    conversations: int,
    replicas: int,
    routing: Routing,
    keeps_kv: bool,
    kv_tokens: int,
    queued: int,
    seed: int,
) -> None:
    limits = ServerLimits(1000 * kv_tokens, 4, queued, keeps_kv)
    workload = replace(SHORT, conversations=conversations, seed=seed, duration_s=20, warm_up_s=0)
    outcome = simulate(Scenario(costs, limits, workload, replicas, routing))
    for record in outcome.records:
        assert record.ended_s is not None and record.began_s < workload.duration_s
        if record.is_refused:
            assert record.first_token_s is None
        else:
            assert record.first_token_s is not None
            assert record.began_s < record.first_token_s <= record.ended_s
            assert 0 <= record.cached_tokens < record.prompt_tokens
    assert outcome.figures.turns + outcome.figures.refused == len(outcome.records)
    assert outcome.most_kv_bytes <= limits.kv_cache_bytes
    assert 0 <= outcome.busy_share <= 1


def test_equal_scenarios_have_equal_outcomes(costs: ServerCosts) -> None:
    scenario = Scenario(costs, LIMITS, SHORT, 2, "random")
    assert simulate(scenario) == simulate(scenario)


def test_users_are_as_many_as_littles_law_says(costs: ServerCosts) -> None:
    """Users = turns in a second × (think time + time of a turn)."""
    workload = replace(SHORT, conversations=40, duration_s=400, warm_up_s=100)
    figures = simulate(Scenario(costs, LIMITS, workload)).figures
    per_s = figures.turns / figures.seconds
    assert per_s * workload.think_s.mean + figures.open_turns == pytest.approx(40, rel=0.07)


def test_more_replicas_do_not_slow_the_first_token(costs: ServerCosts) -> None:
    workload = replace(SHORT, conversations=60)
    p95_s = [
        simulate(Scenario(costs, LIMITS, workload, replicas)).figures.first_token_p95_s
        for replicas in (1, 2, 4)
    ]
    assert p95_s[0] > p95_s[1] and p95_s[2] < 1.1 * p95_s[1]


def test_affinity_finds_prefixes_and_recomputing_finds_none(costs: ServerCosts) -> None:
    def cached(routing: Routing, keeps_kv: bool) -> float:
        limits = ServerLimits(80_000_000, keeps_kv=keeps_kv)
        return simulate(Scenario(costs, limits, SHORT, 4, routing)).figures.cached_share

    assert cached("affinity", True) > cached("random", True) > 0
    assert cached("affinity", False) == 0


def test_full_queue_refuses_turns(costs: ServerCosts) -> None:
    limits = ServerLimits(8_000_000, max_active_requests=1, max_queued_requests=1)
    assert simulate(Scenario(costs, limits, SHORT)).figures.refused > 0


def test_other_work_slows_steps_only_if_they_use_all_cores(costs: ServerCosts) -> None:
    def step_s(threads: int) -> float:
        env = simpy.Environment()
        host = Host(env, replace(costs, cores=2, threads=threads))

        def run() -> Wait:
            yield from host.step(1.0)

        env.process(run())
        env.process(host.work(host.api, 0.5))
        env.run()
        return host.busy_s

    assert step_s(1) == pytest.approx(1.0)
    assert step_s(2) == pytest.approx(1.25)


def test_graphics_card_with_two_passes_is_simulated(costs: ServerCosts) -> None:
    step = StepTimes(Curve((1, 64), (0.002, 0.005)), Curve((1, 2048), (0.01, 0.02)), longest_token_s=1e-7)
    card = replace(costs, step=step, step_tokens=2048, unnoticed_step_s=0.02)
    assert simulate(Scenario(card, LIMITS, SHORT)).figures.first_token_p95_s < 0.1
