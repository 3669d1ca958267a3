"""Measures what a server with one model spends on this machine."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from app.core.catalogue import BUILTIN_NAME
from app.engine.ipc.messages import WorkerSpec
from tests.benchmarks import machine, shapes, targets
from tests.benchmarks.models import BenchmarkModel, prepare_model
from tests.capacity.engine_steps import (
    CASES,
    Case,
    PromptCosts,
    fit_without_outliers,
    kv_bytes_per_token,
    measure_prompts,
    measure_steps,
)
from tests.capacity.http_costs import GAP_TOKENS, HttpCosts, measure_http
from tests.capacity.prompts import PromptText
from tests.capacity.recording_engine import RecordingEngine, recording_engine
from tests.capacity.server_costs import HostCosts, ServerCosts
from tests.capacity.step_times import StepShape, StepTimes
from tests.server import RunningServer, running_server

MODELS = (BUILTIN_NAME, *shapes.FULL)
NO_END = {"ignore_eos": True}  # replies have their full length
_REQUESTS = 40


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model to measure, and the threads of its worker."""

    model: BenchmarkModel
    cache: Path  # where servers look for generated models
    threads: int
    max_active_requests: int = 16

    @classmethod
    def prepare(cls, name: str, cache: Path, threads: int, *, is_small: bool = False) -> "ServedModel":
        """Generates the model if it is missing. Raises FileNotFoundError if the built-in one is."""
        model = prepare_model(name, cache, is_small=is_small)
        if model is None:
            raise FileNotFoundError("the built-in model has no weights here")
        return cls(model, cache, threads)

    @property
    def spec(self) -> WorkerSpec:
        return WorkerSpec(
            str(self.model.folder),
            self.model.name,
            threads=self.threads,
            context_length=self.model.context_length,
            max_active_requests=self.max_active_requests,
            chat_template=self.model.source.chat_template,
            stop=self.model.source.stop,
        )

    @contextmanager
    def server(self, **settings: str) -> Iterator[RunningServer]:
        """Runs a server that has loaded the model."""
        fixed = {
            "LLM_MODEL_NAME": self.model.name,
            "LLM_MODEL_CACHE_DIR": str(self.cache.resolve()),
            "LLM_MAX_ACTIVE_REQUESTS": str(self.max_active_requests),
            "LLM_THREADS": str(self.threads),
            "LLM_LOG_LEVEL": "WARNING",
            "HF_HUB_OFFLINE": "1",
        }
        with TemporaryDirectory() as folder, running_server(Path(folder), **fixed | settings) as running:
            running.wait_until_ready()
            yield running


def measure(
    served: ServedModel, cases: tuple[Case, ...] = CASES, rounds: int = 2, requests: int = _REQUESTS
) -> tuple[ServerCosts, float]:
    """Returns the costs, and the median relative error of the fitted step times."""
    text = PromptText(served.model.folder)
    with served.server() as running:
        http = asyncio.run(_http_costs(running, text, requests))
    with recording_engine(served.spec) as recording:
        costs, error = _engine_costs(recording, served, text, http, cases, rounds)
    return costs, error


async def _http_costs(running: RunningServer, text: PromptText, requests: int) -> HttpCosts:
    async with targets.connection(running.url) as http:
        target = targets.ServerTarget(http, NO_END)
        await measure_http(target, running.process.pid, text, 2)  # the first requests are slower
        return await measure_http(target, running.process.pid, text, requests)


def _engine_costs(
    recording: RecordingEngine,
    served: ServedModel,
    text: PromptText,
    http: HttpCosts,
    cases: tuple[Case, ...],
    rounds: int,
) -> tuple[ServerCosts, float]:
    prompts, bytes_per_token = measure_prompts(recording, text), kv_bytes_per_token(recording, text)
    step, error = fit_without_outliers(measure_steps(recording, text, cases, rounds))
    described, limits = machine.describe(), recording.engine.limits
    costs = ServerCosts(
        model=served.model.name,
        source="python -m tests.capacity measure",
        step=step,
        bytes_per_token=bytes_per_token,
        context_length=limits.context_length,
        weights_bytes=served.model.weights_bytes,
        cores=int(str(described["cores"])),
        threads=served.threads,
        step_tokens=limits.step_tokens,
        unnoticed_step_s=limits.unnoticed_step_s,
        first_overhead_tokens=prompts.first_overhead_tokens,
        turn_overhead_tokens=prompts.turn_overhead_tokens,
        host=_host_costs(http, prompts, step),
        machine=described,
    )
    return costs, error


def _host_costs(http: HttpCosts, prompts: PromptCosts, step: StepTimes) -> HostCosts:
    """A token of a single reply takes a step, and what the worker does around it."""
    loop_s = http.gap_s - step.seconds(StepShape(1, 0, 1, 3 * GAP_TOKENS // 2))
    return HostCosts(
        request_s=http.request_s,
        finish_s=http.finish_s,
        token_s=http.token_s,
        loop_s=max(0.0, loop_s),
        prepare_s=prompts.prepare_s,
        prepare_token_s=prompts.prepare_token_s,
        prepare_share=prompts.prepare_share,
        client_request_s=http.client_request_s,
        client_token_s=http.client_token_s,
    )
