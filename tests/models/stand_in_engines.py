"""Starts stand-in backends instead of worker processes, as slowly as a test wants."""

import asyncio
from dataclasses import dataclass, field

from app.core.catalogue import ModelProfile
from app.core.errors import DomainError
from app.engine.backend import BackendStats
from app.engine.ipc.messages import WorkerSpec
from app.models.hub.progress import LoadReporter
from app.models.lifecycle.engines import EngineStarter
from tests.models.stand_in import StandInBackend


@dataclass
class SlowBackend(StandInBackend):
    """Its `close` returns once `may_end` is set; its memory is free from then on."""

    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    has_ended: bool = False

    async def close(self) -> None:
        await super().close()
        await self.may_end.wait()
        self.has_ended = True


@dataclass
class StandInEngines:
    """Every start waits until `may_start` is set, and every end until `may_end` is."""

    may_start: asyncio.Event = field(default_factory=asyncio.Event)
    may_end: asyncio.Event = field(default_factory=asyncio.Event)
    started: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    backends: list[SlowBackend] = field(default_factory=list)
    memory_bytes: int = 1
    failures: list[DomainError] = field(default_factory=list)  # of the next starts, in this order

    @property
    def used_bytes(self) -> int:
        return sum(backend.stats.memory_bytes for backend in self.backends if not backend.has_ended)

    def prepare(self) -> None:
        pass

    async def keep_prepared(self) -> None:
        pass

    def close(self) -> None:
        assert all(backend.has_ended for backend in self.backends)

    async def connect(self, profile: ModelProfile) -> SlowBackend:
        raise AssertionError("no model of these tests is remote")

    async def start(self, spec: WorkerSpec, report: LoadReporter) -> SlowBackend:
        self.started.append(spec.model_name)
        report("load", 0.5)
        if self.failures:
            raise self.failures.pop(0)
        try:
            await self.may_start.wait()
        except asyncio.CancelledError:
            await self.may_end.wait()
            self.cancelled.append(spec.model_name)
            raise
        backend = SlowBackend(stats=BackendStats(0, self.memory_bytes), may_end=self.may_end)
        self.backends.append(backend)
        return backend


def _is_a_starter(engines: StandInEngines) -> EngineStarter:
    return engines  # checked by mypy
