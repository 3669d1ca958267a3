"""Runs the benchmark: for each model the limit, the engine alone, the server, and other servers."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import httpx
from rich.console import Console

from app.core.errors import DomainError
from app.core.literals import Quantization
from tests.benchmarks import folders, loads, machine, peers, shapes, starts, targets
from tests.benchmarks.loads import Figures
from tests.benchmarks.models import BenchmarkModel, prepare_model
from tests.benchmarks.peers import Peer
from tests.benchmarks.plan import Plan
from tests.benchmarks.report import ModelReport, Report
from tests.benchmarks.targets import EngineTarget, PeerTarget, ServerTarget, Target

LOADS = ("single", "users", "turns", "long", "start", "switch", "memory")
_ITEM_BYTES = {"float32": 4, "int8": 1, "int4": 0.625}  # of the layers' weights; 2 otherwise
_READS = 5  # of memory, before and after the engine's loads
_HTTP = ServerTarget.name

Work = Callable[[], Awaitable[Figures]]


@dataclass
class Benchmark:
    """One run of the benchmark. `cache` holds the generated models; `only` names the loads to measure."""

    plan: Plan
    cache: Path
    console: Console
    only: tuple[str, ...] = LOADS
    quantization: Quantization = "none"  # of this project's engine and server
    python: Path | None = None  # of an environment with transformers[serving]
    llama: Path | None = None  # the binary of llama-server
    ggufs: dict[str, Path] = field(default_factory=dict)  # by model

    async def run(self, names: Iterable[str], keep: Callable[[Report], None]) -> Report:
        """Measures the models. Calls `keep` after each part, so that an interrupted run keeps its figures."""
        report = Report(machine.describe(), asdict(self.plan))
        report.notes += self._left_out()
        folders.ensure(shapes.PARTNER, self.cache)
        for name in names:
            self.console.log(f"{name}: model folder")
            found = prepare_model(name, self.cache, is_small=self.plan.is_small)
            if found is None:
                report.notes.append(f"{name}: skipped, its weights are missing.")
            else:
                await ModelRun(self, found, report).measure(keep)
        return report

    def peers(self, model: BenchmarkModel) -> Iterator[Peer]:
        """The servers to compare with, the slowest last."""
        if self.llama is not None and model.name in self.ggufs:
            tokens = min(self.plan.history_tokens + self.plan.long_tokens, model.context_length)
            slots = max(self.plan.users)
            yield peers.llama_server(self.llama, self.ggufs[model.name], slots=slots, slot_tokens=tokens)
        if self.python is not None:
            for batches in (True, False):
                yield peers.transformers_serve(self.python, model.folder, batches=batches)

    def _left_out(self) -> Iterator[str]:
        if self.python is None:
            yield "transformers serve: skipped, because --transformers-serve is not given."
        if self.llama is None or not self.ggufs:
            yield "llama-server: skipped, because --llama-server or --gguf is not given."


class ModelRun:
    """Measures one model. If a load fails, its error goes into the report and the next load is measured."""

    def __init__(self, benchmark: Benchmark, model: BenchmarkModel, report: Report) -> None:
        self._benchmark = benchmark
        self._plan = benchmark.plan
        self._model = model
        self._report = report
        self._figures = ModelReport(model.name, model.weights_bytes, machine.bandwidth(_READS))
        report.models.append(self._figures)

    async def measure(self, keep: Callable[[Report], None]) -> None:
        await self._engine()
        keep(self._report)
        await self._server()
        self._compare()
        keep(self._report)
        await self._note(_HTTP, "start", self._cold_start)
        if self._model.vocabulary is not None:
            for peer in self._benchmark.peers(self._model):
                await self._note(peer.name, "peer", partial(self._peer, peer))
                keep(self._report)

    async def _engine(self) -> None:
        model = self._model
        async with AsyncExitStack() as stack:
            with machine.PeakMemory() as peak:
                starting = targets.engine(model, self._benchmark.quantization)
                target = await stack.enter_async_context(starting)
            info = target.client.info
            self._figures.load_seconds, self._figures.weights = info.load_seconds, info.weights
            item_bytes = _ITEM_BYTES.get(info.weights, 2)
            await self._note(target.name, "memory", partial(self._memory, peak.bytes, item_bytes))
            await self._all_loads(target)
        self._figures.bandwidth = max(self._figures.bandwidth, machine.bandwidth(_READS))
        self._figures.limit = model.limit(self._figures.bandwidth, item_bytes)

    async def _memory(self, peak: int, item_bytes: float) -> Figures:
        weights = int(folders.weights_count(self._model.folder) * item_bytes)
        return {"memory.peak": peak, "memory.beyond": peak - weights}

    async def _server(self) -> None:
        """Starts a server with the partner model, switches to the model, and measures it."""
        name = self._model.name
        with starts.server(
            self._benchmark.cache, shapes.PARTNER.name, self._benchmark.quantization
        ) as running:
            running.wait_until_ready()
            await self._note(_HTTP, "switch", partial(self._switch, partial(starts.switch, running, name)))
            running.post("/api/v1/chat/switch-model", model_name=name)
            async with targets.connection(running.url) as http:
                await self._all_loads(ServerTarget(http))

    async def _switch(self, switch: Callable[[], Figures]) -> Figures:
        return await asyncio.to_thread(switch)

    async def _cold_start(self) -> Figures:
        benchmark = self._benchmark
        start = partial(starts.cold_start, benchmark.cache, self._model.name, benchmark.quantization)
        return await asyncio.to_thread(start)

    def _compare(self) -> None:
        """Adds the rate over HTTP as a share of the engine's."""
        alone, seen = (self._figures.figures.get(name, {}) for name in (EngineTarget.name, _HTTP))
        if "single.decode" in alone and "single.decode" in seen:
            self._figures.add(_HTTP, {"single.share": seen["single.decode"] / alone["single.decode"]})

    async def _peer(self, peer: Peer) -> Figures:
        with peers.running(peer) as url:
            async with targets.connection(url) as http:
                await self._all_loads(PeerTarget(peer.name, http, peer.fields))
        return {}

    async def _all_loads(self, target: Target) -> None:
        await loads.warm_up(target)
        for name, work in self._loads(target):
            await self._note(target.name, name, work)

    def _loads(self, target: Target) -> Iterator[tuple[str, Work]]:
        plan, model = self._plan, self._model
        yield "single", partial(loads.single, target, plan, model.messages(plan))
        if model.vocabulary is None:
            return
        words, window = model.words, model.context_length
        for count in plan.users:
            yield "users", partial(loads.together, target, plan, words, window, count)
            yield "users", partial(loads.users, target, plan, words, count)
        yield "turns", partial(loads.turns, target, plan, words, window)
        yield "long", partial(loads.long_prompt, target, plan, words, window)

    async def _note(self, target: str, name: str, work: Work) -> None:
        if name in LOADS and name not in self._benchmark.only:
            return
        self._benchmark.console.log(f"{self._figures.name}: {target}: {name}")
        limit_s = self._plan.limit_s if name in LOADS else None
        try:
            async with asyncio.timeout(limit_s):
                self._figures.add(target, await work())
        except (DomainError, httpx.HTTPError, OSError, RuntimeError, TimeoutError) as error:
            kind = type(error).__name__
            self._report.failures.append(f"{self._figures.name}, {target}, {name}: {kind} {error}".strip())
