"""Compares what the simulation predicts with a real run of the same conversations on this machine."""

import asyncio
from dataclasses import dataclass

from tests.benchmarks import targets
from tests.benchmarks.traces import Trace
from tests.capacity.measure import NO_END, ServedModel
from tests.capacity.prompts import PromptText
from tests.capacity.real_run import drive
from tests.capacity.records import Figures, TurnRecord, figures
from tests.capacity.replica import ServerLimits
from tests.capacity.server_costs import ServerCosts
from tests.capacity.simulation import Scenario, simulate
from tests.capacity.workload import Workload

TOLERANCE = 0.2
_COMPARED = ("reply_tokens_per_s", "first_token_p95_s")  # must be within the tolerance
_SHOWN = (
    "first_token_p50_s",
    "gap_s",
    "prompt_tokens_per_s",
    "cached_share",
    "open_turns",
    "turns",
    "refused",
)


@dataclass(frozen=True, slots=True)
class Comparison:
    predicted: Figures
    measured: Figures
    records: list[TurnRecord]  # of the real run

    def rows(self) -> list[tuple[str, float, float]]:
        """Returns names of figures with the predicted and the measured value, the compared ones first."""
        names = (*_COMPARED, *_SHOWN)
        return [(name, getattr(self.predicted, name), getattr(self.measured, name)) for name in names]

    def errors(self) -> dict[str, float]:
        """Returns by which share of the measured figure the prediction differs, of the compared figures."""
        return {
            name: predicted / measured - 1 if measured else float("inf")
            for name, predicted, measured in self.rows()
            if name in _COMPARED
        }

    @property
    def is_close(self) -> bool:
        return all(abs(error) <= TOLERANCE for error in self.errors().values())


def compare(served: ServedModel, costs: ServerCosts, workload: Workload, kv_cache_gb: float) -> Comparison:
    """Runs the workload on a server of this machine, and simulates it with the costs measured there."""
    settings = {"LLM_KV_CACHE_GB": str(kv_cache_gb), "LLM_MAX_QUEUED_REQUESTS": "64"}
    with served.server(**settings) as running:
        records = asyncio.run(_drive(running.url, workload, costs, PromptText(served.model.folder)))
    limits = ServerLimits(int(kv_cache_gb * 1e9), served.max_active_requests)
    predicted = simulate(Scenario(costs, limits, workload)).figures
    measured = figures(records, workload.warm_up_s, workload.duration_s)
    return Comparison(predicted, measured, records)


async def _drive(url: str, workload: Workload, costs: ServerCosts, text: PromptText) -> list[TurnRecord]:
    async with targets.connection(url) as http:
        target = targets.ServerTarget(http, NO_END)
        await target.dialogue().say(text.message(8), 8, Trace())
        return await drive(target, workload, costs, text)
