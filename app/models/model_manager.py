"""Owns the way from a model's name to a worker that serves it: load, lease, switch, evict.

One worker process for each loaded model; a load shares its progress with everyone who waits for it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import replace

from app.core.catalogue import BUILTIN_NAME, ModelProfile, find_profile
from app.core.config import Settings
from app.core.errors import (
    DeadlineExceeded,
    DomainError,
    ModelLoadFailed,
    ModelUnavailable,
    ShuttingDown,
)
from app.models.hub import Hub
from app.models.loading import Entry, Load, LoadedModel, Report, start_worker
from app.models.schemas import LoadProgress, SwitchModelResponse

logger = logging.getLogger(__name__)

LoadEvent = LoadProgress | SwitchModelResponse


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
        self._unloads: set[asyncio.Task[None]] = set()
        self._awaited_default: Entry | None = None  # takes over from the built-in model once it can
        self._is_closing = False
        self.note: str | None = None

    # Life

    async def start(self) -> None:
        """Begins to load and returns at once.

        A model that was chosen is waited for. The default is not, when it is not on disk: the built-in model
        answers while the default is fetched, and goes on if it cannot be had.
        """
        default = self._current
        if self._settings.model_was_chosen or self._hub.has_first_source(default.profile):
            self._spawn(self._load_quietly(default))
        else:
            self._current, self._awaited_default = self._entries[BUILTIN_NAME], default
            self.note = f"{default.profile.name} is not on this machine yet; the built-in model answers."
            self._spawn(self._replace_builtin(default))

    async def _replace_builtin(self, default: Entry) -> None:
        """The ordinary gapless switch, begun by the server itself; any other switch overrules it."""
        await self._load_quietly(self._current)
        with self._held(default):
            await self._load_quietly(default)
            if self._awaited_default is default and default.state == "loaded":
                self._make_current(default)
            elif self._awaited_default is default and default.error is not None:
                self.note = f"The built-in model answers: {default.error.message}"

    async def _load_quietly(self, entry: Entry) -> None:
        """Loads; a failure stays in `entry.error` for whoever asks."""
        with suppress(DomainError):
            await self._load(entry).result()

    async def close(self) -> None:
        """Ends every load and every worker; open requests end with ShuttingDown."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        loads = [entry.load.cancel() for entry in self._entries.values() if entry.load is not None]
        await asyncio.gather(*loads, *self._tasks, return_exceptions=True)
        await asyncio.gather(*map(self._unload, self._entries.values()))
        await asyncio.gather(*self._unloads)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
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

    def trouble(self, entry: Entry) -> str | None:
        """Why the model cannot serve, though it was loaded or asked for; None where nothing is wrong."""
        if entry.error is not None or entry.loaded is None or self.is_serving(entry):
            return None if entry.error is None else entry.error.message
        client = entry.loaded.client
        how = f"has been silent for {client.silence_s:.0f} s" if client.is_alive else f"ended ({client.end})"
        return f"The worker of {entry.profile.name} {how}; the next request starts it again."

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
        with self._held(entry):
            yield await self._ready(entry)

    @contextmanager
    def _held(self, entry: Entry) -> Iterator[None]:
        entry.leases += 1
        try:
            yield
        finally:
            entry.leases -= 1
            entry.last_used = time.monotonic()
            if self._surplus() and not self._is_closing:
                self._spawn(self._trim())

    async def _ready(self, entry: Entry) -> LoadedModel:
        if entry.loaded is not None and self.is_serving(entry):
            return entry.loaded
        load = self._load(entry)
        self._spawn(self._load_quietly(entry))  # goes on for the next one, should this request give up
        try:
            async with asyncio.timeout(self._settings.request_timeout):
                return await load.result()
        except TimeoutError:
            raise DeadlineExceeded(
                f"{entry.profile.name} was not loaded in time.", hint="It goes on loading; try again later."
            ) from None

    async def switch(self, name: str) -> AsyncGenerator[LoadEvent, None]:
        """Makes another model the current one. The old one serves until then; a failure changes nothing.

        Raises:
            ModelNotFound, ModelUnavailable.
        """
        entry = self._entry(name)
        async with aclosing(self._loading(entry)) as events:
            async for event in events:
                if isinstance(event, LoadedModel):
                    self._make_current(entry)
                    yield _done(event, f"Successfully switched to {entry.profile.name}")
                else:
                    yield event

    async def load(self, name: str | None) -> AsyncGenerator[LoadEvent, None]:
        """Loads a model, the current one if none is named, and says how far it is. Switches nothing.

        Raises:
            ModelNotFound, ModelUnavailable.
        """
        entry = self.entry(name)
        async with aclosing(self._loading(entry)) as events:
            async for event in events:
                if isinstance(event, LoadedModel):
                    yield _done(event, f"{entry.profile.name} is loaded")
                else:
                    yield event

    async def _loading(self, entry: Entry) -> AsyncGenerator[LoadProgress | LoadedModel, None]:
        """Progress, and at the end the model, which is kept from eviction until this is closed."""
        with self._held(entry):
            if entry.loaded is not None and self.is_serving(entry):
                yield replace(entry.loaded, load_time_s=0.0)
                return
            load = self._load(entry)
            async with aclosing(load.events()) as progress:
                async for event in progress:
                    yield event
            yield await load.result()

    def _make_current(self, entry: Entry) -> None:
        logger.info("current model: %s (was %s)", entry.profile.name, self._current.profile.name)
        self._current, self.note, self._awaited_default = entry, None, None
        if self._surplus():
            self._spawn(self._trim())

    # Loading

    def _load(self, entry: Entry) -> Load:
        """The load in progress, or a new one."""
        if self._is_closing:
            raise ShuttingDown("The server is shutting down.")
        old = entry.load
        if old is not None and not old.is_done and not old.is_abandoned:
            return old
        entry.load = Load(entry.profile, lambda report: self._run_load(entry, report, old))
        return entry.load

    async def _run_load(self, entry: Entry, report: Report, old: Load | None) -> LoadedModel:
        """The work of a Load, begun once the `old` one has really ended."""
        began = time.monotonic()
        try:
            if old is not None:
                await old.cancel()
            await self._unload(entry)
            weights = await self._hub.fetch(entry.profile, lambda fraction: report("download", fraction))
            async with self._start_lock:
                await self._trim(keep_room_for=entry)
                client = await start_worker(self._settings, entry.profile, weights, report)
        except ModelUnavailable as error:
            logger.warning("model not loaded: model=%s code=%s", entry.profile.name, error.code)
            entry.error = error
            raise
        except Exception as error:  # the task's root: whoever waits is told, and the log has the traceback
            logger.exception("model not loaded: model=%s", entry.profile.name)
            entry.error = ModelLoadFailed(f"{entry.profile.name} could not be loaded.", hint="See the log.")
            raise entry.error from error
        seconds = time.monotonic() - began
        entry.loaded = LoadedModel(entry.profile, weights.source, client, seconds)
        entry.error, entry.last_used = None, time.monotonic()
        logger.info(
            "model loaded: model=%s from=%s s=%.1f", entry.profile.name, weights.source.model_id, seconds
        )
        return entry.loaded

    async def _unload(self, entry: Entry) -> None:
        """Ends the entry's worker; goes on to its end also if this is cancelled."""
        loaded, entry.loaded = entry.loaded, None
        if loaded is not None:
            unload = asyncio.create_task(loaded.client.close())
            self._unloads.add(unload)
            unload.add_done_callback(self._unloads.discard)
            await asyncio.shield(unload)
            logger.info("model unloaded: model=%s", entry.profile.name)

    def _surplus(self, extra: int = 0) -> list[Entry]:
        """Loaded models that must go, least recently used first: never the current one, never one in use."""
        loaded = [entry for entry in self._entries.values() if entry.loaded is not None]
        idle = [entry for entry in loaded if entry is not self._current and entry.leases == 0]
        excess = len(loaded) + extra - self._settings.max_loaded_models
        return sorted(idle, key=lambda entry: entry.last_used)[: max(0, excess)]

    async def _trim(self, keep_room_for: Entry | None = None) -> None:
        extra = 0 if keep_room_for is None else 1
        while surplus := self._surplus(extra):  # anew each time: an unload takes a while
            await self._unload(surplus[0])


def _done(loaded: LoadedModel, message: str) -> SwitchModelResponse:
    return SwitchModelResponse(
        message=message,
        model_name=loaded.profile.name,
        model_id=loaded.model_id,
        load_time=loaded.load_time_s,
    )
