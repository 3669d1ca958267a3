"""The figures of models: loads with stages, restarts, evictions, and what their engines count."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from app.core.config import Settings
from app.core.errors import DomainError, ModelCorrupt
from app.engine.backend import EngineTotals
from app.models.hub.client import Hub
from app.models.metrics.reporter import MetricsReporter
from app.models.metrics.server_metrics import ServerMetrics
from app.models.model_manager import ModelManager
from tests.models.conftest import asyncio_timeout, collect, profile
from tests.models.hub.requests import make_folder
from tests.models.metrics.exposition import Figures
from tests.models.stand_in_engines import StandInEngines


@dataclass
class Machine:
    """A manager of two models, of which one is loaded at a time."""

    models: ModelManager
    engines: StandInEngines
    reporter: MetricsReporter

    async def figures(self) -> Figures:
        return Figures((await self.reporter.report()).decode())


def run_machine(tmp_path: Path, scenario: Callable[[Machine], Awaitable[None]]) -> None:
    async def run() -> None:
        settings = Settings(model_name="a", max_loaded_models=1, _env_file=None)
        catalogue = {name: profile(name, make_folder(tmp_path / name)) for name in ("a", "b")}
        engines, metrics = StandInEngines(), ServerMetrics()
        engines.may_start.set()
        engines.may_end.set()
        hub = Hub(tmp_path / "cache")
        models = ModelManager(settings, catalogue, hub, engines=engines, metrics=metrics.lifecycle)
        try:
            await scenario(Machine(models, engines, MetricsReporter(metrics, models)))
        finally:
            await models.close()

    asyncio.run(asyncio_timeout(run()))


def test_load_counts_with_its_stages(tmp_path: Path) -> None:
    async def scenario(machine: Machine) -> None:
        assert (await machine.figures()).total("llm_model_loaded") == 0
        await collect(machine.models.load("a"))
        figures = await machine.figures()
        assert figures.total("llm_model_loads_total", model_name="a", outcome="loaded") == 1
        assert figures.total("llm_model_load_seconds_count", model_name="a") == 1
        stages = "llm_model_load_stage_seconds_count"
        assert figures.total(stages, stage="resolve") == figures.total(stages, stage="load") == 1
        assert figures.total(stages, stage="ready") == 0
        assert figures.total("llm_model_loaded", model_name="a") == 1

    run_machine(tmp_path, scenario)


def test_failed_load_counts_as_failed(tmp_path: Path) -> None:
    async def scenario(machine: Machine) -> None:
        machine.engines.failures.append(ModelCorrupt("It is damaged."))
        with suppress(DomainError):
            await collect(machine.models.load("a"))
        figures = await machine.figures()
        assert figures.total("llm_model_loads_total", model_name="a", outcome="failed") == 1
        assert figures.total("llm_model_load_seconds_count") == 0

    run_machine(tmp_path, scenario)


def test_eviction_counts_with_its_reason_and_unloading_by_request_does_not(tmp_path: Path) -> None:
    async def scenario(machine: Machine) -> None:
        await collect(machine.models.load("b"))
        await collect(machine.models.load("a"))
        figures = await machine.figures()
        assert figures.total("llm_model_evictions_total", model_name="b", reason="limit") == 1
        await machine.models.unload("a")
        assert (await machine.figures()).total("llm_model_evictions_total") == 1

    run_machine(tmp_path, scenario)


def test_worker_that_ended_counts_as_restart_and_its_counts_stay(tmp_path: Path) -> None:
    async def scenario(machine: Machine) -> None:
        await collect(machine.models.load("a"))
        (backend,) = machine.engines.backends
        backend.stats = replace(
            backend.stats,
            open_requests=3,
            running=2,
            kv_used_bytes=1,
            kv_cache_bytes=4,
            totals=EngineTotals(1, 2, 6, 4),
        )
        figures = await machine.figures()
        assert figures.total("vllm:num_requests_running", model_name="a") == 2
        assert figures.total("vllm:num_requests_waiting", model_name="a") == 1
        assert figures.total("vllm:kv_cache_usage_perc", model_name="a") == 0.25
        backend.failure = "ended (signal 9)"
        assert (await machine.figures()).total("llm_model_loaded", model_name="a") == 0
        await collect(machine.models.load("a"))
        figures = await machine.figures()
        assert figures.total("llm_worker_restarts_total", model_name="a") == 1
        accepted = figures.total("vllm:spec_decode_num_accepted_tokens_total", model_name="a")
        assert (accepted, figures.total("vllm:num_preemptions_total")) == (4, 1)

    run_machine(tmp_path, scenario)
