"""Owns the way from a model's name to a worker that serves it: load, lease, switch, unload.

One worker process for each loaded model; a load shares its progress with everyone who waits for it.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import replace

from app.core.catalogue import BUILTIN_NAME, ModelProfile
from app.core.config import NO_MODEL, Settings
from app.core.errors import (
    DeadlineExceeded,
    DomainError,
    ModelBusy,
    ModelLoadFailed,
    ModelUnavailable,
    NoModelChosen,
    ShuttingDown,
)
from app.models.entries import Entries
from app.models.hub import Hub, Weights
from app.models.loading import Entry, Lease, Load, LoadedModel, start_worker
from app.models.progress import Report
from app.models.residency import Residency
from app.models.schemas import LoadProgress, SwitchModelResponse, UnloadModelResponse

logger = logging.getLogger(__name__)

LoadEvent = LoadProgress | SwitchModelResponse
_LONGEST_NAP_S = 10.0  # between two looks for models that nobody has asked for


class ModelManager:
    """Which models are loaded, and which one answers when a request names none."""

    def __init__(
        self,
        settings: Settings,
        catalogue: Mapping[str, ModelProfile],
        hub: Hub,
        residency: Residency | None = None,
    ) -> None:
        """Raises ModelNotFound where the settings name a model that there is not."""
        self._settings = settings
        self._hub = hub
        self._entries = Entries(catalogue, settings.allow_any_model)
        self._residency = Residency.of(settings) if residency is None else residency
        name = settings.model_name
        self._current = None if name == NO_MODEL else self._entries.find(name)
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
        self._spawn(self._keep_house())
        default = self._current
        if default is None:
            self.note = "The server was started without a model: name one, or switch to one."
        elif self._settings.model_was_chosen or self._hub.has_first_source(default.profile):
            self._begin_load(default)
        else:
            self._current, self._awaited_default = self._entries.find(BUILTIN_NAME), default
            self.note = f"{default.profile.name} is not on this machine yet; the built-in model answers."
            self._begin_load(self._current)
            self._spawn(self._replace_builtin(default))

    async def _replace_builtin(self, default: Entry) -> None:
        """The ordinary gapless switch, begun by the server itself; any other switch overrules it."""
        assert self._current is not None
        await self._load_quietly(self._current)
        with self._held(default):
            await self._load_quietly(default)
            if self._awaited_default is default and default.state == "loaded":
                self._make_current(default)
            elif self._awaited_default is default and default.error is not None:
                self.note = f"The built-in model answers: {default.error.message}"

    def _begin_load(self, entry: Entry) -> None:
        """A load that goes on whoever leaves."""
        self._load(entry)
        self._spawn(self._load_quietly(entry))

    async def _load_quietly(self, entry: Entry) -> None:
        """Loads; a failure stays in `entry.error` for whoever asks."""
        with suppress(DomainError):
            await self._load(entry).result()

    async def _keep_house(self) -> None:
        """Clears up after killed downloads, then unloads models that nobody has asked for long enough."""
        with suppress(OSError):
            await self._hub.sweep()
        timeout_s = self._residency.idle_timeout_s
        while timeout_s is not None:
            await asyncio.sleep(min(timeout_s / 4, _LONGEST_NAP_S))
            while (entry := self._residency.outstayed(self.entries())) is not None:
                await self._unload(entry)

    async def close(self) -> None:
        """Ends every load and every worker; open requests end with ShuttingDown."""
        self._is_closing = True
        for task in self._tasks:
            task.cancel()
        loads = [entry.load.cancel() for entry in self.entries() if entry.load is not None]
        await asyncio.gather(*loads, *self._tasks, return_exceptions=True)
        await asyncio.gather(*map(self._unload, self.entries()))
        await asyncio.gather(*self._unloads)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Looking

    @property
    def current(self) -> Entry | None:
        return self._current

    @property
    def current_name(self) -> str | None:
        return None if self._current is None else self._current.profile.name

    def entry(self, name: str | None) -> Entry:
        """What is known of the named model, or of the current one.

        Raises:
            ModelNotFound: with the nearest names.
            NoModelChosen: none is named, and none is current.
        """
        if name is not None:
            return self._entries.find(name)
        if self._current is None:
            raise NoModelChosen(
                "No model is chosen.", hint="Name one as model_name, or POST /api/v1/chat/switch-model first."
            )
        return self._current

    def entries(self) -> list[Entry]:
        return self._entries.all()

    def served_from(self, entry: Entry) -> tuple[str, bool]:
        """What the model is, or would first be, served from; and whether that is on this disk."""
        if entry.loaded is not None:
            return entry.loaded.model_id, True
        weights = self._hub.find(entry.profile)
        return (weights.source if weights else entry.profile.sources[0]).model_id, weights is not None

    def open_requests(self) -> tuple[int, int]:
        """Requests that run and requests that wait, over all workers."""
        counts = [entry.loaded.client.open_requests for entry in self.entries() if entry.loaded]
        running = [min(count, self._settings.max_active_requests) for count in counts]
        return sum(running), sum(counts) - sum(running)

    def is_serving(self, entry: Entry) -> bool:
        """Whether the worker is alive and has given a sign of life lately."""
        client = entry.loaded.client if entry.loaded is not None else None
        return client is not None and client.is_alive and client.silence_s < self._settings.worker_timeout

    # Using

    @asynccontextmanager
    async def lease(self, name: str | None) -> AsyncIterator[Lease]:
        """A use of the model, which is loaded if it must be and kept from leaving until the lease ends.

        Raises:
            ModelNotFound, NoModelChosen.
        """
        entry = self.entry(name)
        with self._held(entry):
            yield Lease(self._awaited(entry))

    @contextmanager
    def _held(self, entry: Entry) -> Iterator[None]:
        entry.leases += 1
        try:
            yield
        finally:
            entry.leases -= 1
            entry.last_used = time.monotonic()
            self._trim_soon()

    async def _awaited(self, entry: Entry) -> AsyncGenerator[LoadProgress | LoadedModel, None]:
        """Progress and then the model, within a request's time; the load goes on if the request gives up."""
        if entry.loaded is not None and self.is_serving(entry):
            yield entry.loaded
            return
        deadline = asyncio.get_running_loop().time() + self._settings.request_timeout
        self._begin_load(entry)
        load = self._load(entry)
        async with aclosing(load.events()) as events:
            try:
                while True:
                    async with asyncio.timeout_at(deadline):
                        event = await anext(events)
                    yield event
            except TimeoutError:
                raise DeadlineExceeded(
                    f"{entry.profile.name} was not loaded in time.",
                    hint="It goes on loading; try again later.",
                ) from None
            except StopAsyncIteration:
                pass
        yield await load.result()

    async def switch(self, name: str) -> AsyncGenerator[LoadEvent, None]:
        """Makes another model the current one. The old one serves until then; a failure changes nothing.

        Raises:
            ModelNotFound, ModelUnavailable.
        """
        entry, old = self._entries.find(name), self._current
        with nullcontext() if old is None else self._held(old):
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
            ModelNotFound, NoModelChosen, ModelUnavailable.
        """
        entry = self.entry(name)
        async with aclosing(self._loading(entry)) as events:
            async for event in events:
                if isinstance(event, LoadedModel):
                    yield _done(event, f"{entry.profile.name} is loaded")
                else:
                    yield event

    async def unload(self, name: str | None) -> UnloadModelResponse:
        """Gives the model's memory back. The current one stays current: the next request loads it again.

        Raises:
            ModelNotFound, NoModelChosen.
            ModelBusy: it is in use, or somebody waits for it.
        """
        entry = self.entry(name)
        if not entry.is_idle:
            raise ModelBusy(
                f"{entry.profile.name} is in use.",
                hint="Try again when its requests have ended.",
                retry_after=2,
            )
        was_loaded = entry.loaded is not None
        if entry.load is not None:
            await entry.load.cancel()
        await self._unload(entry)
        entry.error = None
        told = "was unloaded" if was_loaded else "was not loaded"
        return UnloadModelResponse(
            message=f"{entry.profile.name} {told}", model_name=entry.profile.name, was_loaded=was_loaded
        )

    async def _loading(self, entry: Entry) -> AsyncGenerator[LoadProgress | LoadedModel, None]:
        """Progress, and at the end the model, which is kept from leaving until this is closed."""
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
        logger.info("current model: %s (was %s)", entry.profile.name, self.current_name)
        self._current, self.note, self._awaited_default = entry, None, None
        self._trim_soon()

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
            weights = await self._hub.fetch(entry.profile, report)
            async with self._start_lock:
                loaded = await self._start(entry, weights, report, began)
        except ModelUnavailable as error:
            logger.error("model not loaded: model=%s code=%s", entry.profile.name, error.code)
            entry.error = error
            raise
        except Exception as error:  # the task's root: whoever waits is told, and the log has the traceback
            logger.exception("model not loaded: model=%s", entry.profile.name)
            entry.error = ModelLoadFailed(f"{entry.profile.name} could not be loaded.", hint="See the log.")
            raise entry.error from error
        entry.loaded, entry.error, entry.last_used = loaded, None, time.monotonic()
        entry.measured_bytes = loaded.client.memory_bytes
        logger.info(
            "model loaded: model=%s from=%s s=%.1f bytes=%d",
            entry.profile.name,
            loaded.model_id,
            loaded.load_time_s,
            entry.measured_bytes,
        )
        return loaded

    async def _start(self, entry: Entry, weights: Weights, report: Report, began: float) -> LoadedModel:
        await self._make_room(entry, weights)
        source = weights.source
        converts_to = str(self._hub.converted(source)) if source.takes_pickle else None
        client = await start_worker(self._settings, entry.profile, weights, report, converts_to)
        report("ready", 1.0)
        return LoadedModel(entry.profile, source, client, time.monotonic() - began)

    async def _unload(self, entry: Entry) -> None:
        """Ends the entry's worker; goes on to its end also if this is cancelled."""
        loaded, entry.loaded = entry.loaded, None
        if loaded is not None:
            unload = asyncio.create_task(loaded.client.close())
            self._unloads.add(unload)
            unload.add_done_callback(self._unloads.discard)
            await asyncio.shield(unload)
            logger.info("model unloaded: model=%s", entry.profile.name)

    async def _make_room(self, entry: Entry, weights: Weights) -> None:
        """Unloads whoever may leave until the newcomer fits. Raises ModelTooLarge where it cannot."""
        residency = self._residency
        while (surplus := residency.next_to_leave(self.entries(), self._current, 1)) is not None:
            await self._unload(surplus)
        needed = residency.needed_bytes(entry, weights.path)
        while (room := residency.room_bytes(self.entries())) is not None and room < needed:
            leaving = residency.expendable(self.entries(), self._current)
            if leaving is None:
                break
            await self._unload(leaving)
        residency.check(entry, needed, self.entries())

    def _trim_soon(self) -> None:
        if not self._is_closing and self._residency.next_to_leave(self.entries(), self._current) is not None:
            self._spawn(self._trim())

    async def _trim(self) -> None:
        while (surplus := self._residency.next_to_leave(self.entries(), self._current)) is not None:
            await self._unload(surplus)  # one by one: it takes a while, and much may change meanwhile


def _done(loaded: LoadedModel, message: str) -> SwitchModelResponse:
    return SwitchModelResponse(
        message=message,
        model_name=loaded.profile.name,
        model_id=loaded.model_id,
        load_time=loaded.load_time_s,
    )
