"""Owns the way from a model's name to a worker that serves it: load, lease, switch, evict.

One worker process for each loaded model; a load shares its progress with everyone who waits for it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from app.core.catalogue import BUILTIN_NAME, ModelProfile, find_profile
from app.core.config import Settings
from app.core.errors import DeadlineExceeded, DomainError, ModelUnavailable, ShuttingDown
from app.engine.client import EngineClient
from app.engine.messages import Progress, WorkerSpec
from app.models.hub import Hub, Weights
from app.models.loading import Load, LoadedModel, Report
from app.models.schemas import LoadProgress, ModelState, SwitchModelResponse

logger = logging.getLogger(__name__)

LoadEvent = LoadProgress | SwitchModelResponse


@dataclass(slots=True, eq=False)
class Entry:
    """What is known of one model of the catalogue: at most one worker, at most one load."""

    profile: ModelProfile
    loaded: LoadedModel | None = None
    load: Load | None = None
    error: DomainError | None = None
    leases: int = 0
    last_used: float = 0.0

    @property
    def progress(self) -> LoadProgress | None:
        """How far a load is that is going on."""
        return None if self.load is None or self.load.is_done else self.load.progress

    @property
    def state(self) -> ModelState:
        if self.loaded is not None and self.loaded.client.is_alive:
            return "loaded"
        if self.progress is not None:
            return "loading"
        return "available" if self.error is None and self.loaded is None else "failed"


class ModelManager:
    """Which models are loaded, and which one answers when a request names none."""

    def __init__(self, settings: Settings, catalogue: Mapping[str, ModelProfile], hub: Hub) -> None:
        """Raises ModelNotFound where the settings name a model that the catalogue does not have."""
        self._settings = settings
        self._hub = hub
        self._entries = {name: Entry(profile) for name, profile in catalogue.items()}
        self._catalogue = catalogue
        self._current = self._entry(settings.model_name)
        self._start_lock = asyncio.Lock()  # one model is loaded into memory at a time
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closing = False
        self.note: str | None = None

    # Life

    async def start(self) -> None:
        """Begins to load and returns at once.

        A model that was chosen is waited for. The default is not, when it is not on disk: the built-in model
        answers while the default is fetched, and goes on if it cannot be had.
        """
        if self._settings.model_was_chosen or self._hub.find(self._current.profile) is not None:
            self._spawn(self._load_quietly(self._current))
        else:
            default, self._current = self._current, self._entries[BUILTIN_NAME]
            self.note = f"{default.profile.name} is not on this machine yet; the built-in model answers."
            self._spawn(self._replace_builtin(default))

    async def _replace_builtin(self, default: Entry) -> None:
        """The ordinary gapless switch, begun by the server itself."""
        builtin = self._current
        await self._load_quietly(builtin)
        if await self._load_quietly(default) and self._current is builtin:
            self._make_current(default)
        elif default.error is not None:
            self.note = f"The built-in model answers: {default.error.message}"

    async def _load_quietly(self, entry: Entry) -> bool:
        """Loads; a failure stays in `entry.error` for whoever asks."""
        try:
            await self._load(entry).result()
        except DomainError as error:
            logger.error("model not loaded: model=%s code=%s", entry.profile.name, error.code)
            return False
        return True

    async def close(self) -> None:
        """Ends every load and every worker; open requests end with ShuttingDown."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        loads = [entry.load.cancel() for entry in self._entries.values() if entry.load is not None]
        await asyncio.gather(*loads, *self._tasks, return_exceptions=True)
        await asyncio.gather(*map(self._unload, self._entries.values()))

    def _spawn(self, work: Coroutine[None, None, None | bool]) -> None:
        async def run() -> None:
            await work

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Looking

    @property
    def catalogue(self) -> Mapping[str, ModelProfile]:
        return self._catalogue

    @property
    def current(self) -> Entry:
        return self._current

    @property
    def current_name(self) -> str:
        return self._current.profile.name

    def entry(self, name: str | None) -> Entry:
        """What is known of the named model, or of the current one.

        Raises:
            ModelNotFound: with the nearest names.
        """
        return self._current if name is None else self._entry(name)

    def entries(self) -> list[Entry]:
        return list(self._entries.values())

    def served_from(self, entry: Entry) -> tuple[str, bool]:
        """What the model is, or would first be, served from; and whether that is on this disk."""
        if entry.loaded is not None:
            return entry.loaded.model_id, True
        weights = self._hub.find(entry.profile)
        return (weights.source if weights else entry.profile.sources[0]).model_id, weights is not None

    def open_requests(self) -> tuple[int, int]:
        """Requests that run and requests that wait, over all workers."""
        counts = [entry.loaded.client.open_requests for entry in self._entries.values() if entry.loaded]
        running = [min(count, self._settings.max_active_requests) for count in counts]
        return sum(running), sum(counts) - sum(running)

    def is_serving(self, entry: Entry) -> bool:
        """Whether the worker is alive and has given a sign of life lately."""
        client = entry.loaded.client if entry.loaded is not None else None
        return client is not None and client.is_alive and client.silence_s < self._settings.worker_timeout

    def _entry(self, name: str) -> Entry:
        return self._entries[find_profile(self._catalogue, name).name]

    # Using

    @asynccontextmanager
    async def lease(self, name: str | None) -> AsyncIterator[LoadedModel]:
        """The model, loaded if it must be, and kept from eviction until the lease ends.

        Raises:
            ModelNotFound, ModelUnavailable, DeadlineExceeded.
        """
        entry = self.entry(name)
        entry.leases += 1
        try:
            yield await self._ready(entry)
        finally:
            entry.leases -= 1
            entry.last_used = time.monotonic()
            if self._surplus():
                self._spawn(self._trim())

    async def _ready(self, entry: Entry) -> LoadedModel:
        if entry.loaded is not None and self.is_serving(entry):
            return entry.loaded
        try:
            async with asyncio.timeout(self._settings.request_timeout):
                return await self._load(entry).result()
        except TimeoutError:
            raise DeadlineExceeded(
                f"{entry.profile.name} was not loaded in time.",
                hint="GET /api/v1/health shows how far it is.",
            ) from None

    async def switch(self, name: str) -> AsyncGenerator[LoadEvent, None]:
        """Makes another model the current one. The old one serves until then; a failure changes nothing.

        Raises:
            ModelNotFound, ModelUnavailable.
        """
        entry = self._entry(name)
        async with aclosing(self.load(name)) as events:
            async for event in events:
                if isinstance(event, SwitchModelResponse):
                    self._make_current(entry)
                yield event

    async def load(self, name: str | None) -> AsyncGenerator[LoadEvent, None]:
        """Loads a model, the current one if none is named, and says how far it is.

        Raises:
            ModelNotFound, ModelUnavailable.
        """
        entry = self.entry(name)
        load_time_s = 0.0
        if entry.loaded is None or not self.is_serving(entry):
            async with aclosing(self._load(entry).events()) as progress:
                async for event in progress:
                    yield event
            assert entry.loaded is not None
            load_time_s = entry.loaded.load_time_s
        yield SwitchModelResponse(
            message=f"Successfully switched to {entry.profile.name}",
            model_name=entry.profile.name,
            model_id=entry.loaded.model_id,
            load_time=load_time_s,
        )

    def _make_current(self, entry: Entry) -> None:
        logger.info("current model: %s (was %s)", entry.profile.name, self._current.profile.name)
        self._current, self.note = entry, None
        if self._surplus():
            self._spawn(self._trim())

    # Loading

    def _load(self, entry: Entry) -> Load:
        """The load in progress, or a new one."""
        if self._is_closing:
            raise ShuttingDown("The server is shutting down.")
        if entry.load is None or entry.load.is_done:
            entry.load = Load(entry.profile, lambda report: self._run_load(entry, report))
        return entry.load

    async def _run_load(self, entry: Entry, report: Report) -> LoadedModel:
        began = time.monotonic()
        try:
            await self._unload(entry)
            weights = await self._hub.fetch(entry.profile, lambda fraction: report("download", fraction))
            async with self._start_lock:
                await self._trim(keep_room_for=entry)
                client = await self._start_worker(entry.profile, weights, report)
        except ModelUnavailable as error:
            entry.error = error
            raise
        seconds = time.monotonic() - began
        entry.loaded = LoadedModel(entry.profile, weights.source.model_id, client, seconds)
        entry.error, entry.last_used = None, time.monotonic()
        logger.info(
            "model loaded: model=%s from=%s s=%.1f", entry.profile.name, weights.source.model_id, seconds
        )
        return entry.loaded

    async def _start_worker(self, profile: ModelProfile, weights: Weights, report: Report) -> EngineClient:
        settings = self._settings
        spec = WorkerSpec(
            model_path=str(weights.path),
            model_name=profile.name,
            device=settings.device,
            dtype=settings.dtype,
            threads=settings.threads,
            context_length=profile.context_length,
            max_active_requests=settings.max_active_requests,
            kv_cache_bytes=settings.kv_cache_bytes,
            chat_template=weights.source.chat_template,
            stop=weights.source.stop,
        )

        def progress(event: Progress) -> None:
            report(event.stage, event.fraction)

        limit = settings.max_active_requests + settings.max_queued_requests
        return await EngineClient.start(spec, report=progress, max_requests=limit)

    async def _unload(self, entry: Entry) -> None:
        loaded, entry.loaded = entry.loaded, None
        if loaded is not None:
            await loaded.client.close()
            logger.info("model unloaded: model=%s", entry.profile.name)

    def _surplus(self, extra: int = 0) -> list[Entry]:
        """Loaded models that must go, least recently used first: never the current one, never one in use."""
        loaded = [entry for entry in self._entries.values() if entry.loaded is not None]
        idle = [entry for entry in loaded if entry is not self._current and entry.leases == 0]
        excess = len(loaded) + extra - self._settings.max_loaded_models
        return sorted(idle, key=lambda entry: entry.last_used)[: max(0, excess)]

    async def _trim(self, keep_room_for: Entry | None = None) -> None:
        for entry in self._surplus(extra=0 if keep_room_for is None else 1):
            await self._unload(entry)
