"""Owns which model answers: from a name to a worker that serves it, by lease, switch, load and unload.

What a load takes is in workers.py, what may stay loaded in residency.py.
"""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, nullcontext, suppress
from dataclasses import replace

from app.core.catalogue import BUILTIN_NAME, ModelProfile
from app.core.config import NO_MODEL, Settings
from app.core.errors import (
    DeadlineExceeded,
    ModelBusy,
    NoModelChosen,
)
from app.models.entries import Entries
from app.models.hub import Hub
from app.models.loading import Entry, Lease, LoadedModel
from app.models.residency import Residency
from app.models.schemas import LoadProgress, SwitchModelResponse, UnloadModelResponse
from app.models.workers import Workers

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
        self._workers = Workers(settings, hub, self._entries, self._residency, lambda: self._current)
        self._awaited_default: Entry | None = None  # takes over from the built-in model once it can
        self.note: str | None = None

    # Life

    async def start(self) -> None:
        """Begins to load and returns at once.

        A model that was chosen is waited for. The default is not, when it is not on disk: the built-in model
        answers while the default is fetched, and goes on if it cannot be had.
        """
        self._workers.spawn(self._keep_house())
        default = self._current
        if default is None:
            self.note = "The server was started without a model: name one, or switch to one."
        elif self._settings.model_was_chosen or self._hub.has_first_source(default.profile):
            self._workers.begin(default)
        else:
            self._current, self._awaited_default = self._entries.find(BUILTIN_NAME), default
            self.note = f"{default.profile.name} is not on this machine yet; the built-in model answers."
            self._workers.begin(self._current)
            self._workers.spawn(self._replace_builtin(default))

    async def _replace_builtin(self, default: Entry) -> None:
        """The ordinary gapless switch, begun by the server itself; any other switch overrules it."""
        assert self._current is not None
        await self._workers.load_quietly(self._current)
        with self._held(default):
            await self._workers.load_quietly(default)
            if self._awaited_default is default and default.state == "loaded":
                self._make_current(default)
            elif self._awaited_default is default and default.error is not None:
                self.note = f"The built-in model answers: {default.error.message}"

    async def _keep_house(self) -> None:
        """Clears up after killed downloads, then unloads models that nobody has asked for long enough."""
        with suppress(OSError):
            await self._hub.sweep()
        timeout_s = self._residency.idle_timeout_s
        while timeout_s is not None:
            await asyncio.sleep(min(timeout_s / 4, _LONGEST_NAP_S))
            while (entry := self._residency.outstayed(self.entries())) is not None:
                await self._workers.unload(entry)

    async def close(self) -> None:
        """Ends every load and every worker; open requests end with ShuttingDown."""
        await self._workers.close()

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
        return self._workers.is_serving(entry)

    def trouble(self, entry: Entry) -> str | None:
        """Why the model cannot serve, though it was loaded or asked for; None where nothing is wrong."""
        if entry.error is not None or entry.loaded is None or self.is_serving(entry):
            return None if entry.error is None else entry.error.message
        client = entry.loaded.client
        how = f"has been silent for {client.silence_s:.0f} s" if client.is_alive else f"ended ({client.end})"
        return f"The worker of {entry.profile.name} {how}; the next request starts it again."

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
            self._workers.trim_soon()

    async def _awaited(self, entry: Entry) -> AsyncGenerator[LoadProgress | LoadedModel, None]:
        """Progress and then the model, within a request's time; the load goes on if the request gives up."""
        if entry.loaded is not None and self._workers.is_serving(entry):
            yield entry.loaded
            return
        deadline = asyncio.get_running_loop().time() + self._settings.request_timeout
        self._workers.begin(entry)
        load = self._workers.load(entry)
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
        await self._workers.unload(entry)
        entry.error = None
        told = "was unloaded" if was_loaded else "was not loaded"
        return UnloadModelResponse(
            message=f"{entry.profile.name} {told}", model_name=entry.profile.name, was_loaded=was_loaded
        )

    async def _loading(self, entry: Entry) -> AsyncGenerator[LoadProgress | LoadedModel, None]:
        """Progress, and at the end the model, which is kept from leaving until this is closed."""
        with self._held(entry):
            if entry.loaded is not None and self._workers.is_serving(entry):
                yield replace(entry.loaded, load_time_s=0.0)
                return
            load = self._workers.load(entry)
            async with aclosing(load.events()) as progress:
                async for event in progress:
                    yield event
            yield await load.result()

    def _make_current(self, entry: Entry) -> None:
        logger.info("current model: %s (was %s)", entry.profile.name, self.current_name)
        self._current, self.note, self._awaited_default = entry, None, None
        self._workers.trim_soon()


def _done(loaded: LoadedModel, message: str) -> SwitchModelResponse:
    return SwitchModelResponse(
        message=message,
        model_name=loaded.profile.name,
        model_id=loaded.model_id,
        load_time=loaded.load_time_s,
    )
