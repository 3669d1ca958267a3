"""Leases, loads, switches and unloads models by name.

The calls go in one direction: manager, switch, loader, evictor. All four work on the states in the registry.
"""

from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing, suppress
from functools import partial

from app.core.catalogue import ModelProfile
from app.core.config import NO_MODEL, Settings
from app.core.deadline import Deadline
from app.core.errors import DeadlineExceeded, ModelBusy, NoModelChosen
from app.models.hub.client import Hub, Weights
from app.models.hub.disk_view import DiskView
from app.models.hub.local_models import LocalModels
from app.models.lifecycle.background import BackgroundTasks
from app.models.lifecycle.engines import EngineStarter, WorkerStarter
from app.models.lifecycle.eviction_policy import EvictionPolicy, MemoryForecast
from app.models.lifecycle.evictor import Evictor
from app.models.lifecycle.loader import ModelLoader
from app.models.lifecycle.registry import ModelRegistry
from app.models.lifecycle.reviver import Reviver
from app.models.lifecycle.served_model import ServedModel
from app.models.lifecycle.state import ModelState
from app.models.lifecycle.switch import LoadEvent, ModelSwitch, done
from app.models.metrics.lifecycle_metrics import LifecycleMetrics
from app.models.schemas import LoadProgress, UnloadModelResponse


class ModelManager:
    """The service behind the routes that load, switch and unload models. Its owner must await `close`."""

    def __init__(
        self,
        settings: Settings,
        catalogue: Mapping[str, ModelProfile],
        hub: Hub,
        policy: EvictionPolicy | None = None,
        engines: EngineStarter | None = None,
        local: LocalModels | None = None,
        metrics: LifecycleMetrics | None = None,
    ) -> None:
        """With `local`, the models of other programs on this machine are known as well.

        Raises ModelNotFound if no model has the name in the settings.
        """
        self._settings = settings
        self._hub = hub
        self._finds_local = local is not None
        self._disk = DiskView(hub, None if local is None else partial(local.find, catalogue))
        self._background = background = BackgroundTasks()
        self._registry = registry = ModelRegistry(
            catalogue, settings.allow_any_model, settings.context_length
        )
        if settings.model_name != NO_MODEL:
            registry.current = registry.find(settings.model_name)
        self._policy = policy = EvictionPolicy.from_settings(settings) if policy is None else policy
        self._engines = engines = WorkerStarter(settings) if engines is None else engines
        self._evictor = evictor = Evictor(registry, policy, settings.request_timeout, metrics)
        self._loader = ModelLoader(settings, hub, registry, policy, evictor, engines, background, metrics)
        self._switch = ModelSwitch(registry, hub, policy, self._loader, evictor, background)

    # Start and end

    async def start(self) -> None:
        """Starts loading the current model without waiting for it. See ModelSwitch.start."""
        self._engines.prepare()
        self._background.spawn(self._engines.keep_prepared())
        self._background.spawn(self._sweep())
        if self._finds_local:
            self._background.spawn(self._discover())
        self._background.spawn(self._evictor.unload_idle_models())
        self._background.spawn(Reviver(self._registry, self._loader).run())
        await self._switch.start(is_chosen=self._settings.model_was_chosen)

    async def _discover(self) -> None:
        """Finds the models of other programs, so that a request can name one before the models are listed."""
        await self.on_disk()

    async def _sweep(self) -> None:
        with suppress(OSError):
            await self._hub.sweep()

    async def close(self) -> None:
        """Ends every load and every worker. Open requests end with ShuttingDown."""
        await self._background.close()
        await self._disk.close()
        await self._loader.close()
        await self._evictor.close()
        self._engines.close()

    # Reading

    @property
    def current(self) -> ModelState | None:
        return self._registry.current

    @property
    def current_name(self) -> str | None:
        return None if self.current is None else self.current.name

    @property
    def note(self) -> str | None:
        """A message for people about the choice of the current model."""
        return self._registry.note

    def find(self, name: str | None) -> ModelState:
        """Returns the state of the named model, or of the current one.

        Raises:
            ModelNotFound: the hint has the most similar names.
            NoModelChosen: no name was given, and no model is current.
        """
        if name is not None:
            return self._registry.find(name)
        if self.current is None:
            raise NoModelChosen(
                "No model is chosen.", hint="Name one as model_name, or POST /api/v1/chat/switch-model first."
            )
        return self.current

    def states(self) -> list[ModelState]:
        return self._registry.all()

    async def on_disk(self) -> Mapping[str, Weights]:
        """Returns the weights of the models that are complete on this disk, by the model's name."""
        weights = await self._disk.look([state.profile for state in self.states()])
        self._registry.set_found(self._disk.found)
        return weights

    def memory_forecasts(self, wanted: Iterable[ModelState]) -> Mapping[str, MemoryForecast]:
        """Returns what each of the models takes or would take of the memory, by the model's name.

        It uses the files that `on_disk` has found.
        """
        return self._policy.forecasts(wanted, self.states(), self._disk.seen)

    @property
    def is_hub_reachable(self) -> bool | None:
        """Whether the Hub answered when it was last needed; None if it was not needed yet."""
        return self._hub.is_reachable

    def open_requests(self) -> tuple[int, int]:
        """Returns the numbers of running and of waiting requests of all workers."""
        counts = [state.loaded.backend.stats.open_requests for state in self.states() if state.loaded]
        running = [min(count, self._settings.max_active_requests) for count in counts]
        return sum(running), sum(counts) - sum(running)

    # Using

    async def lease(
        self, name: str | None, deadline: Deadline
    ) -> AsyncGenerator[LoadProgress | ServedModel, None]:
        """Yields progress while the model loads, then the model, which stays loaded until this is closed.

        It yields nothing in the stage `resolve`, so that an error there can still become a status code. The
        load continues if its requests are cancelled.

        Raises:
            ModelNotFound, NoModelChosen, ModelUnavailable.
            DeadlineExceeded: the model was not loaded in time.
        """
        state = self.find(name)
        with self._loader.pin(state):
            if state.loaded is not None and state.is_serving:
                yield state.loaded
                return
            load = self._loader.start_background_load(state)
            async with aclosing(load.events()) as events:
                while (progress := await _next(events, deadline, state)) is not None:
                    if progress.stage != "resolve":
                        yield progress
            yield await load.result()

    def switch(self, name: str) -> AsyncGenerator[LoadEvent, None]:
        """Makes another model the current one. See ModelSwitch.switch."""
        return self._switch.switch(name)

    async def load(self, name: str | None) -> AsyncGenerator[LoadEvent, None]:
        """Loads the named model, or the current one, and yields progress. The current model stays current.

        Raises:
            ModelNotFound, NoModelChosen, ModelUnavailable.
        """
        state = self.find(name)
        async with aclosing(self._loader.loading(state)) as events:
            async for event in events:
                if isinstance(event, ServedModel):
                    yield done(event, f"{state.name} is loaded")
                else:
                    yield event

    async def unload(self, name: str | None) -> UnloadModelResponse:
        """Frees the model's memory. The current model stays current, and the next request loads it again.

        Raises:
            ModelNotFound, NoModelChosen.
            ModelBusy: a request uses the model or waits for it.
        """
        state = self.find(name)
        if not state.is_idle:
            raise ModelBusy(
                f"{state.name} is in use.", hint="Try again when its requests have ended.", retry_after=2
            )
        was_loaded = state.loaded is not None
        await self._loader.unload(state)
        outcome = "was unloaded" if was_loaded else "was not loaded"
        return UnloadModelResponse(
            message=f"{state.name} {outcome}", model_name=state.name, was_loaded=was_loaded
        )


async def _next(
    events: AsyncGenerator[LoadProgress, None], deadline: Deadline, state: ModelState
) -> LoadProgress | None:
    try:
        async with deadline.limit():
            return await anext(events, None)
    except TimeoutError:
        raise DeadlineExceeded(
            f"{state.name} was not loaded in time.", hint="It is still loading; try again later."
        ) from None
