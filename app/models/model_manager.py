"""Owns the way from a model's name to a worker that serves it: lease, load and unload.

What a load takes is in workers.py, what may stay loaded in residency.py, which model answers in switching.py.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, suppress

from app.core.catalogue import ModelProfile
from app.core.config import NO_MODEL, Settings
from app.core.deadline import Deadline
from app.core.errors import DeadlineExceeded, ModelBusy, NoModelChosen
from app.engine.ipc.launcher import WorkerLauncher
from app.models.hub.client import Hub
from app.models.lifecycle.eviction import EvictionPolicy
from app.models.lifecycle.loader import ModelLoader
from app.models.lifecycle.registry import ModelRegistry
from app.models.lifecycle.state import ModelState, ServedModel
from app.models.lifecycle.switch import LoadEvent, ModelSwitch, done
from app.models.schemas import LoadProgress, UnloadModelResponse

_LONGEST_NAP_S = 10.0  # between two looks for models that nobody has asked for


class ModelManager:
    """Which models are loaded, and which one answers when a request names none."""

    def __init__(
        self,
        settings: Settings,
        catalogue: Mapping[str, ModelProfile],
        hub: Hub,
        residency: EvictionPolicy | None = None,
        launcher: WorkerLauncher | None = None,
    ) -> None:
        """Raises ModelNotFound where the settings name a model that there is not."""
        self._settings = settings
        self._hub = hub
        self._entries = ModelRegistry(catalogue, settings.allow_any_model)
        self._residency = EvictionPolicy.of(settings) if residency is None else residency
        name = settings.model_name
        current = None if name == NO_MODEL else self._entries.find(name)
        launcher = WorkerLauncher(settings.fork_server) if launcher is None else launcher
        self._workers = ModelLoader(
            settings, hub, self._entries, self._residency, lambda: self.current, launcher
        )
        self._switching = ModelSwitch(current, self._entries, hub, self._residency, self._workers)

    # Life

    async def start(self) -> None:
        """Begins to load and returns at once; see Switching.start."""
        self._workers.start()
        self._workers.spawn(self._keep_house())
        self._switching.start(is_chosen=self._settings.model_was_chosen)

    async def _keep_house(self) -> None:
        """Clears up after killed downloads, then unloads models that nobody has asked for long enough."""
        with suppress(OSError):
            await self._hub.sweep()
        timeout_s = self._residency.idle_timeout_s
        while timeout_s is not None:
            await asyncio.sleep(min(timeout_s / 4, _LONGEST_NAP_S))
            while (entry := self._residency.idle_candidate(self.entries())) is not None:
                await self._workers.unload(entry)

    async def close(self) -> None:
        """Ends every load and every worker; open requests end with ShuttingDown."""
        await self._workers.close()

    # Looking

    @property
    def current(self) -> ModelState | None:
        return self._switching.current

    @property
    def current_name(self) -> str | None:
        return None if self.current is None else self.current.profile.name

    @property
    def note(self) -> str | None:
        """What a person should know of the choice of the current model."""
        return self._switching.note

    def entry(self, name: str | None) -> ModelState:
        """What is known of the named model, or of the current one.

        Raises:
            ModelNotFound: with the nearest names.
            NoModelChosen: none is named, and none is current.
        """
        if name is not None:
            return self._entries.find(name)
        if self.current is None:
            raise NoModelChosen(
                "No model is chosen.", hint="Name one as model_name, or POST /api/v1/chat/switch-model first."
            )
        return self.current

    def entries(self) -> list[ModelState]:
        return self._entries.all()

    def served_from(self, entry: ModelState) -> tuple[str, bool]:
        """What the model is, or would first be, served from; and whether that is on this disk."""
        if entry.loaded is not None:
            return entry.loaded.model_id, True
        weights = self._hub.find(entry.profile)
        return (weights.source if weights else entry.profile.sources[0]).model_id, weights is not None

    def open_requests(self) -> tuple[int, int]:
        """Requests that run and requests that wait, over all workers."""
        counts = [entry.loaded.backend.stats.open_requests for entry in self.entries() if entry.loaded]
        running = [min(count, self._settings.max_active_requests) for count in counts]
        return sum(running), sum(counts) - sum(running)

    def is_serving(self, entry: ModelState) -> bool:
        """Whether the worker is alive and has given a sign of life lately."""
        return self._workers.is_serving(entry)

    # Using

    async def lease(
        self, name: str | None, deadline: Deadline
    ) -> AsyncGenerator[LoadProgress | ServedModel, None]:
        """Yields progress while the model loads, then the model, which stays loaded until this is closed.

        Leaves out progress of the stage `resolve`, so that an error in it comes before anything is yielded
        and can become a status code. The load continues if its requests are cancelled.

        Raises:
            ModelNotFound, NoModelChosen, ModelUnavailable.
            DeadlineExceeded: the model was not loaded in time.
        """
        entry = self.entry(name)
        with self._workers.held(entry):
            if entry.loaded is not None and self._workers.is_serving(entry):
                yield entry.loaded
                return
            self._workers.begin(entry)
            load = self._workers.load(entry)
            async with aclosing(load.events()) as events:
                while (progress := await self._next_progress(events, deadline, entry)) is not None:
                    if progress.stage != "resolve":
                        yield progress
            yield await load.result()

    @staticmethod
    async def _next_progress(
        events: AsyncGenerator[LoadProgress, None], deadline: Deadline, entry: ModelState
    ) -> LoadProgress | None:
        try:
            async with deadline.limit():
                return await anext(events, None)
        except TimeoutError:
            raise DeadlineExceeded(
                f"{entry.profile.name} was not loaded in time.",
                hint="It goes on loading; try again later.",
            ) from None

    def switch(self, name: str) -> AsyncGenerator[LoadEvent, None]:
        """See Switching.switch."""
        return self._switching.switch(name)

    async def load(self, name: str | None) -> AsyncGenerator[LoadEvent, None]:
        """Loads a model, the current one if none is named, and says how far it is. Switches nothing.

        Raises:
            ModelNotFound, NoModelChosen, ModelUnavailable.
        """
        entry = self.entry(name)
        async with aclosing(self._workers.loading(entry)) as events:
            async for event in events:
                if isinstance(event, ServedModel):
                    yield done(event, f"{entry.profile.name} is loaded")
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
