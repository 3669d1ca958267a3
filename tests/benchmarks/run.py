"""Owns the order: for each model its limit, the engine alone, the server over HTTP, and the peers."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import httpx
from rich.console import Console

from app.core.errors import DomainError
from app.engine.ipc.messages import Quantization
from tests.benchmarks import folders, loads, machine, peers, shapes, starts, targets
from tests.benchmarks.loads import Figures
from tests.benchmarks.peers import Peer
from tests.benchmarks.plan import Plan
from tests.benchmarks.report import ModelReport, Report
from tests.benchmarks.subjects import Subject, subject
from tests.benchmarks.targets import EngineTarget, PeerTarget, ServerTarget, Target

LOADS = ("single", "users", "turns", "long", "start", "switch", "memory")
_ITEM_BYTES = {"float32": 4, "int8": 1}  # of the layers' weights; 2 otherwise
_READS = 5  # of memory, before the engine's loads and after them
_HTTP = ServerTarget.name

Work = Callable[[], Awaitable[Figures]]


@dataclass
class Benchmark:
    """`cache` holds the made models; `only` are the loads that are measured."""

    plan: Plan
    cache: Path
    console: Console
    only: tuple[str, ...] = LOADS
    quantization: Quantization = "none"  # of this project's engine and server
    python: Path | None = None  # of an environment with transformers[serving]
    llama: Path | None = None  # the binary of llama-server
    ggufs: dict[str, Path] = field(default_factory=dict)  # by model

    async def run(self, names: Iterable[str], keep: Callable[[Report], None]) -> Report:
        """`keep` gets the report after each part, so that a run that is broken off is not lost."""
        report = Report(machine.describe(), asdict(self.plan))
        report.notes += self._left_out()
        folders.ensure(shapes.PARTNER, self.cache)
        for name in names:
            self.console.log(f"{name}: model folder")
            found = subject(name, self.cache, is_small=self.plan.is_small)
            if found is None:
                report.notes.append(f"{name}: skipped, it has no weights here.")
            else:
                await ModelRun(self, found, report).measure(keep)
        return report

    def peers(self, asked: Subject) -> Iterator[Peer]:
        """The slowest last: one at a time, it may take longer than all others together."""
        if self.llama is not None and asked.name in self.ggufs:
            tokens = min(self.plan.history_tokens + self.plan.long_tokens, asked.context_length)
            slots = max(self.plan.users)
            yield peers.llama_server(self.llama, self.ggufs[asked.name], slots=slots, slot_tokens=tokens)
        if self.python is not None:
            for batches in (True, False):
                yield peers.transformers_serve(self.python, asked.folder, batches=batches)

    def _left_out(self) -> Iterator[str]:
        if self.python is None:
            yield "transformers serve: skipped, --transformers-serve names no Python."
        if self.llama is None or not self.ggufs:
            yield "llama-server: skipped, --llama-server and --gguf name no binary and no file."


class ModelRun:
    """Everything of one model. A load that fails is noted, and the next one measured."""

    def __init__(self, benchmark: Benchmark, asked: Subject, report: Report) -> None:
        self._benchmark = benchmark
        self._plan = benchmark.plan
        self._subject = asked
        self._report = report
        self._model = ModelReport(asked.name, asked.weights_bytes, machine.bandwidth(_READS))
        report.models.append(self._model)

    async def measure(self, keep: Callable[[Report], None]) -> None:
        await self._engine()
        keep(self._report)
        await self._server()
        self._compare()
        keep(self._report)
        await self._note(_HTTP, "start", self._cold_start)
        if self._subject.vocabulary is not None:
            for peer in self._benchmark.peers(self._subject):
                await self._note(peer.name, "peer", partial(self._peer, peer))
                keep(self._report)

    async def _engine(self) -> None:
        asked = self._subject
        async with AsyncExitStack() as stack:
            with machine.PeakMemory() as peak:
                starting = targets.engine(asked, self._benchmark.quantization)
                target = await stack.enter_async_context(starting)
            info = target.client.info
            self._model.load_seconds, self._model.weights = info.load_seconds, info.weights
            item_bytes = _ITEM_BYTES.get(info.weights, 2)
            await self._note(target.name, "memory", partial(self._memory, peak.bytes, item_bytes))
            await self._all_loads(target)
        self._model.bandwidth = max(self._model.bandwidth, machine.bandwidth(_READS))
        self._model.limit = asked.limit(self._model.bandwidth, item_bytes)

    async def _memory(self, peak: int, item_bytes: int) -> Figures:
        weights = folders.weights_count(self._subject.folder) * item_bytes
        return {"memory.peak": peak, "memory.beyond": peak - weights}

    async def _server(self) -> None:
        """Starts with the partner, switches to the model, and measures it there."""
        name = self._subject.name
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
        start = partial(starts.cold_start, benchmark.cache, self._subject.name, benchmark.quantization)
        return await asyncio.to_thread(start)

    def _compare(self) -> None:
        """How much of the engine's pace a client sees."""
        alone, seen = (self._model.figures.get(name, {}) for name in (EngineTarget.name, _HTTP))
        if "single.decode" in alone and "single.decode" in seen:
            self._model.add(_HTTP, {"single.share": seen["single.decode"] / alone["single.decode"]})

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
        plan, asked = self._plan, self._subject
        yield "single", partial(loads.single, target, plan, asked.messages(plan))
        if asked.vocabulary is None:
            return
        words, window = asked.words, asked.context_length
        for count in plan.users:
            yield "users", partial(loads.together, target, plan, words, window, count)
            yield "users", partial(loads.users, target, plan, words, count)
        yield "turns", partial(loads.turns, target, plan, words, window)
        yield "long", partial(loads.long_prompt, target, plan, words, window)

    async def _note(self, target: str, name: str, work: Work) -> None:
        if name in LOADS and name not in self._benchmark.only:
            return
        self._benchmark.console.log(f"{self._model.name}: {target}: {name}")
        limit_s = self._plan.limit_s if name in LOADS else None
        try:
            async with asyncio.timeout(limit_s):
                self._model.add(target, await work())
        except (DomainError, httpx.HTTPError, OSError, RuntimeError, TimeoutError) as error:
            kind = type(error).__name__
            self._report.failures.append(f"{self._model.name}, {target}, {name}: {kind} {error}".strip())
