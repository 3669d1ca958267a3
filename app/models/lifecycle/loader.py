"""Owns the workers of all models: begins, shares and ends loads, makes room for them, and ends workers.

Knows nothing of requests, nor why a model is wanted.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import aclosing, contextmanager, suppress
from dataclasses import replace

from app.core.config import Settings
from app.core.errors import DomainError, ModelLoadFailed, ModelUnavailable, ShuttingDown
from app.core.model_folder import weight_bytes
from app.engine.ipc.launcher import WorkerLauncher
from app.models.hub.client import Hub, Weights
from app.models.hub.progress import Report
from app.models.lifecycle.eviction import EvictionPolicy
from app.models.lifecycle.registry import ModelRegistry
from app.models.lifecycle.state import Load, ModelState, ServedModel, start_worker, worker_spec
from app.models.schemas import LoadProgress

logger = logging.getLogger(__name__)

_DRAIN_POLL_S = 0.02


class ModelLoader:
    """One worker process for each loaded model. `current` is the model that leaves last."""

    def __init__(
        self,
        settings: Settings,
        hub: Hub,
        entries: ModelRegistry,
        residency: EvictionPolicy,
        current: Callable[[], ModelState | None],
        launcher: WorkerLauncher,
    ) -> None:
        self._settings = settings
        self._hub = hub
        self._entries = entries
        self._residency = residency
        self._current = current
        self._launcher = launcher
        self._start_lock = asyncio.Lock()  # one model is loaded into memory at a time
        self._tasks: set[asyncio.Task[None]] = set()
        self._unloads: set[asyncio.Task[None]] = set()
        self._is_closing = False

    def start(self) -> None:
        """Prepares for fast starts of workers, in the background."""
        self._launcher.start()

    async def close(self) -> None:
        """Ends every load and every worker; open requests end with ShuttingDown."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        loads = [entry.load.cancel() for entry in self._entries.all() if entry.load is not None]
        await asyncio.gather(*loads, *self._tasks, return_exceptions=True)
        await asyncio.gather(*map(self.unload, self._entries.all()))
        await asyncio.gather(*self._unloads)
        self._launcher.close()

    def spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def is_serving(self, entry: ModelState) -> bool:
        """Whether the model is loaded and its backend can serve."""
        return entry.loaded is not None and entry.loaded.backend.failure is None

    def load(self, entry: ModelState) -> Load:
        """The load in progress, or a new one."""
        if self._is_closing:
            raise ShuttingDown("The server is shutting down.")
        old = entry.load
        if old is not None and not old.is_done and not old.is_abandoned:
            return old
        entry.load = Load(entry.profile, lambda report: self._run_load(entry, report, old))
        return entry.load

    def begin(self, entry: ModelState) -> None:
        """A load that goes on whoever leaves."""
        self.load(entry)
        self.spawn(self.load_quietly(entry))

    async def load_quietly(self, entry: ModelState) -> None:
        """Loads; a failure stays in `entry.error` for whoever asks."""
        with suppress(DomainError):
            await self.load(entry).result()

    @contextmanager
    def held(self, entry: ModelState) -> Iterator[None]:
        """Keeps the model from leaving."""
        entry.leases += 1
        try:
            yield
        finally:
            entry.leases -= 1
            entry.last_used = time.monotonic()
            self.trim_soon()

    async def loading(self, entry: ModelState) -> AsyncGenerator[LoadProgress | ServedModel, None]:
        """Progress, and at the end the model, which is kept from leaving until this is closed."""
        with self.held(entry):
            if entry.loaded is not None and self.is_serving(entry):
                yield replace(entry.loaded, load_time_s=0.0)
                return
            load = self.load(entry)
            async with aclosing(load.events()) as progress:
                async for event in progress:
                    yield event
            yield await load.result()

    async def _run_load(self, entry: ModelState, report: Report, old: Load | None) -> ServedModel:
        """The work of a Load, begun once the `old` one has really ended."""
        began = time.monotonic()
        try:
            if old is not None:
                await old.cancel()
            await self.unload(entry)
            weights = await self._hub.fetch(entry.profile, report)
            async with self._start_lock:
                loaded = await self._start(entry, weights, report, began)
        except ModelUnavailable as error:
            logger.warning("model not loaded: model=%s code=%s", entry.profile.name, error.code)
            entry.error = error
            raise
        except Exception as error:  # the task's root: whoever waits is told, and the log has the traceback
            logger.exception("model not loaded: model=%s", entry.profile.name)
            entry.error = ModelLoadFailed(f"{entry.profile.name} could not be loaded.", hint="See the log.")
            raise entry.error from error
        entry.loaded, entry.error, entry.last_used = loaded, None, time.monotonic()
        is_alone = loaded.backend.info.draft is None  # what a draft takes is not the model's need
        entry.measured_bytes = loaded.backend.stats.memory_bytes if is_alone else None
        if weights.source.takes_pickle:
            self.spawn(self._hub.forget_pickle(weights.source))
        logger.info(
            "model loaded: model=%s from=%s s=%.1f bytes=%d",
            entry.profile.name,
            loaded.model_id,
            loaded.load_time_s,
            loaded.backend.stats.memory_bytes,
        )
        return loaded

    async def _start(self, entry: ModelState, weights: Weights, report: Report, began: float) -> ServedModel:
        await self._make_room(entry, weights, report)
        source = weights.source
        spec = worker_spec(
            self._settings,
            entry.profile,
            weights,
            draft=self._draft_for(entry, weights),
            converts_to=str(self._hub.converted(source)) if source.takes_pickle else None,
            low_priority=any(other.loaded for other in self._entries.all()),
        )
        backend = await start_worker(spec, self._launcher, self._settings, report)
        report("ready", 1.0)
        return ServedModel(entry.profile, source, backend, time.monotonic() - began)

    def _draft_for(self, entry: ModelState, weights: Weights) -> Weights | None:
        """The model that may guess for this one: if it lies on the disk, and nobody must leave for it."""
        if entry.profile.draft is None:
            return None
        draft = self._entries.find(entry.profile.draft)
        found = self._hub.find(draft.profile)
        if found is None:
            return None
        residency = self._residency
        room = residency.room_bytes(self._entries.all())
        needed = residency.needed_bytes(entry, weights.path) + weight_bytes(found.path)
        return found if room is None or needed <= room else None

    async def unload(self, entry: ModelState) -> None:
        """Ends the entry's worker; goes on to its end also if this is cancelled."""
        loaded, entry.loaded = entry.loaded, None
        if loaded is not None:
            unload = asyncio.create_task(loaded.backend.close())
            self._unloads.add(unload)
            unload.add_done_callback(self._unloads.discard)
            await asyncio.shield(unload)
            logger.info("model unloaded: model=%s", entry.profile.name)

    async def _make_room(self, entry: ModelState, weights: Weights, report: Report) -> None:
        """Unloads whoever may leave until the newcomer fits. Raises ModelTooLarge where it cannot."""
        residency = self._residency
        while (surplus := residency.next_to_leave(self._entries.all(), self._current(), 1)) is not None:
            await self.unload(surplus)
        needed = residency.needed_bytes(entry, weights.path)
        while (room := residency.room_bytes(self._entries.all())) is not None and room < needed:
            leaving = residency.eviction_candidate(self._entries.all(), self._current())
            if leaving is None and entry is self._current():
                leaving = await self._drained(needed, report)
            if leaving is None:
                break
            await self.unload(leaving)
        residency.check(entry, needed, self._entries.all())

    async def _drained(self, needed_bytes: int, report: Report) -> ModelState | None:
        """A model whose room would do, once what it is at has ended; None where there is none, or it goes on
        for longer than a request may."""
        entries = self._entries.all()
        in_use = (e for e in entries if self._residency.fits_instead(needed_bytes, e, entries))
        entry = next(in_use, None)
        if entry is None:
            return None
        report("drain", 0.0)
        deadline = time.monotonic() + self._settings.request_timeout
        while not entry.is_idle and time.monotonic() < deadline:
            await asyncio.sleep(_DRAIN_POLL_S)
        report("drain", 1.0)
        return entry if entry.is_idle else None

    def trim_soon(self) -> None:
        """Unloads, in its own time, what is more than may be."""
        surplus = self._residency.next_to_leave(self._entries.all(), self._current())
        if surplus is not None and not self._is_closing:
            self.spawn(self._trim())

    async def _trim(self) -> None:
        while (surplus := self._residency.next_to_leave(self._entries.all(), self._current())) is not None:
            await self.unload(surplus)  # one by one: it takes a while, and much may change meanwhile
