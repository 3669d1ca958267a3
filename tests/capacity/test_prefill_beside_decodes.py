"""The prefill budget with measured costs: gaps beside a long prompt on a CPU, first tokens on a card."""

from dataclasses import replace
from statistics import median

import pytest

from app.engine.scheduling import pass_size
from app.engine.scheduling.prefill_budget import PrefillBudget
from tests.capacity.options import costs_path
from tests.capacity.replica import ServerLimits
from tests.capacity.server_costs import ServerCosts
from tests.capacity.simulation import Scenario, simulate
from tests.capacity.step_times import Curve, StepShape, StepTimes
from tests.capacity.workload import Quantity, Workload

_PROMPT, _LENGTH = 900, 100  # tokens of the long prompt, and of each sequence that decodes


@pytest.mark.parametrize("model", ["builtin-cpu", "gpt2-cpu"])
@pytest.mark.parametrize("decodes", [1, 4, 16])
def test_gap_beside_a_long_prompt_on_a_cpu(model: str, decodes: int) -> None:
    costs, budget = ServerCosts.read(costs_path(model)), PrefillBudget()
    plain_s = costs.step.seconds(StepShape(decodes, 0, decodes, decodes * _LENGTH))
    steps_s: list[float] = []
    for _ in range(2):  # the first prompt teaches the budget
        budget.learn(plain_s, 0)
        done, steps_s = 0, []
        while done < _PROMPT:
            allowed = pass_size.cut(decodes + budget.prefill_rows(costs.step_tokens)) - decodes
            rows = min(allowed, _PROMPT - done)
            pairs = rows * (done + rows / 2)
            steps_s.append(costs.step.seconds(StepShape(decodes, rows, decodes, decodes * _LENGTH, pairs)))
            budget.learn(steps_s[-1], rows)
            done += rows
    assert median(steps_s) <= 2.4 * plain_s


def test_first_tokens_do_not_wait_while_a_card_is_half_idle() -> None:
    step = StepTimes(  # the first ones that were measured on an H200, where a pass with prefill took 11 ms
        Curve((1, 8, 64), (0.0016, 0.0022, 0.0044)),
        prefill=Curve((128, 512, 2000), (0.0109, 0.0141, 0.0164)),
        decode_token_s=5.4e-8,
        longest_token_s=2.5e-7,
    )
    host = replace(ServerCosts.read(costs_path("builtin-cpu")).host, client_request_s=0.0, client_token_s=0.0)
    costs = replace(ServerCosts.read(costs_path("llama3-1b-h200")), step=step, host=host)
    limits = ServerLimits(100_000_000_000, max_active_requests=64, max_queued_requests=256)
    workload = Workload(
        conversations=750,
        turns=Quantity(6, 0.5),
        think_s=Quantity(30, 1.0),
        message_tokens=Quantity(60, 0.7),
        reply_tokens=Quantity(200, 0.5),
        duration_s=100,
        warm_up_s=50,
    )
    assert simulate(Scenario(costs, limits, workload)).figures.first_token_p95_s < 0.1
