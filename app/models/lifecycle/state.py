"""Owns what one model of the catalogue is at: on its way to a worker, or served by one.

A load is shared by everyone who waits for it, and cancelled when nobody does any more.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass

from app.core.catalogue import ModelProfile, SamplingDefaults, Source
from app.core.config import Settings
from app.core.errors import DomainError, ShuttingDown
from app.engine.backend import EngineBackend
from app.engine.ipc.client import WorkerClient
from app.engine.ipc.launcher import WorkerLauncher
from app.engine.ipc.messages import Progress, WorkerSpec
from app.models.hub.client import Weights
from app.models.hub.progress import Report, Transfer
from app.models.schemas import FileProgress, LoadProgress, LoadState


@dataclass(frozen=True, slots=True)
class ServedModel:
    """A model that answers. `source` is what it is really served from."""

    profile: ModelProfile
    source: Source
    backend: EngineBackend
    load_time_s: float

    @property
    def model_id(self) -> str:
        return self.source.model_id

    @property
    def sampling(self) -> SamplingDefaults:
        return self.profile.sampling if self.source.sampling is None else self.source.sampling


class Load:
    """Runs `work` in a task, and gives it a function to report to, from any thread."""

    def __init__(self, profile: ModelProfile, work: Callable[[Report], Awaitable[ServedModel]]) -> None:
        self.progress = LoadProgress(model_name=profile.name, stage="resolve", fraction=0)
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._waiters = 0
        self.is_abandoned = False
        self._task = asyncio.ensure_future(work(self._report))
        self._task.add_done_callback(lambda task: self._tell())

    @property
    def is_done(self) -> bool:
        return self._task.done()

    async def events(self) -> AsyncGenerator[LoadProgress, None]:
        """Progress as it changes, until the load has ended. The last waiter to leave early cancels the load.

        Raises:
            ModelUnavailable: the load failed.
        """
        self._waiters += 1
        try:
            while not self._task.done():
                changed = self._changed
                yield self.progress
                await changed.wait()
            if self._task.cancelled():
                raise ShuttingDown("The load was cancelled.", hint="Ask for the model again.")
            self._task.result()
        finally:
            self._waiters -= 1
            if self._waiters == 0 and not self._task.done():
                self.is_abandoned = True
                self._task.cancel()

    async def result(self) -> ServedModel:
        """Waits for the model.

        Raises:
            ModelUnavailable: the load failed.
        """
        async with aclosing(self.events()) as events:
            async for _ in events:
                pass
        return self._task.result()

    async def cancel(self) -> None:
        """Returns once the load has ended, with all that it began."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _report(self, stage: str, fraction: float, transfer: Transfer | None = None) -> None:
        progress = _progress(self.progress.model_name, stage, fraction, transfer)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(self._set, progress)

    def _set(self, progress: LoadProgress) -> None:
        self.progress = progress
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


def _progress(name: str, stage: str, fraction: float, transfer: Transfer | None) -> LoadProgress:
    fraction = min(1.0, max(0.0, fraction))
    if transfer is None:
        return LoadProgress(model_name=name, stage=stage, fraction=fraction)
    files = [
        FileProgress(name=f.name, done_bytes=f.done_bytes, total_bytes=f.total_bytes) for f in transfer.files
    ]
    return LoadProgress(
        model_name=name,
        stage=stage,
        fraction=fraction,
        done_bytes=transfer.done_bytes,
        total_bytes=transfer.total_bytes,
        bytes_per_s=transfer.bytes_per_s,
        seconds_left=transfer.seconds_left,
        files=files,
    )


@dataclass(slots=True, eq=False)
class ModelState:
    """What is known of one model: at most one worker, at most one load. `measured_bytes`: of the last one."""

    profile: ModelProfile
    loaded: ServedModel | None = None
    load: Load | None = None
    error: DomainError | None = None
    leases: int = 0
    last_used: float = 0.0
    measured_bytes: int | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nobody uses the model or waits for it."""
        return self.leases == 0 and (self.loaded is None or self.loaded.backend.stats.open_requests == 0)

    @property
    def progress(self) -> LoadProgress | None:
        """How far a load is that is going on."""
        return None if self.load is None or self.load.is_done else self.load.progress

    @property
    def state(self) -> LoadState:
        if self.loaded is not None and self.loaded.backend.is_alive:
            return "loaded"
        if self.progress is not None:
            return "loading"
        return "available" if self.error is None and self.loaded is None else "failed"


def worker_spec(
    settings: Settings,
    profile: ModelProfile,
    weights: Weights,
    *,
    draft: Weights | None,
    converts_to: str | None,
    low_priority: bool,
) -> WorkerSpec:
    """What a worker needs to serve these weights, with a `draft` model's guesses. For the rest see there."""
    return WorkerSpec(
        model_path=str(weights.path),
        model_name=profile.name,
        device=settings.device,
        dtype=settings.dtype,
        quantization=settings.quantization,
        threads=settings.threads,
        context_length=profile.context_length,
        max_active_requests=settings.max_active_requests,
        kv_cache_bytes=settings.kv_cache_bytes,
        chat_template=weights.source.chat_template,
        stop=weights.source.stop,
        draft_path=None if draft is None else str(draft.path),
        draft_name=None if draft is None else draft.source.model_id,
        log_level=settings.log_level,
        converts_to=converts_to,
        low_priority=low_priority,
    )


async def start_worker(
    spec: WorkerSpec, launcher: WorkerLauncher, settings: Settings, report: Report
) -> EngineBackend:
    """Returns a worker that serves the model of `spec`, and reports the stages of its start.

    Raises:
        ModelUnavailable: it cannot.
    """

    def progress(event: Progress) -> None:
        report(event.stage, event.fraction)

    limit = settings.max_active_requests + settings.max_queued_requests
    return await WorkerClient.start(
        spec, launcher, report=progress, max_requests=limit, silence_limit_s=settings.worker_timeout
    )
