"""Changes the current model: without a gap if memory suffices for both, otherwise one after the other."""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, nullcontext, suppress

from app.core.catalogue import BUILTIN_NAME
from app.core.errors import DomainError, ModelTooLarge, ModelUnavailable, ShuttingDown
from app.models.hub.client import Hub
from app.models.hub.threads import in_thread
from app.models.lifecycle.background import BackgroundTasks
from app.models.lifecycle.eviction_policy import EvictionPolicy
from app.models.lifecycle.evictor import Evictor
from app.models.lifecycle.loader import ModelLoader
from app.models.lifecycle.registry import ModelRegistry
from app.models.lifecycle.served_model import ServedModel
from app.models.lifecycle.state import ModelState
from app.models.schemas import LoadProgress, SwitchModelResponse

logger = logging.getLogger(__name__)

LoadEvent = LoadProgress | SwitchModelResponse


class ModelSwitch:
    """Changes `current` and `note` in the registry."""

    def __init__(
        self,
        registry: ModelRegistry,
        hub: Hub,
        policy: EvictionPolicy,
        loader: ModelLoader,
        evictor: Evictor,
        background: BackgroundTasks,
    ) -> None:
        self._registry = registry
        self._hub = hub
        self._policy = policy
        self._loader = loader
        self._evictor = evictor
        self._background = background
        self._pending_default: ModelState | None = None  # will replace the built-in model when it is loaded
        self._asked = 0  # switches so far; each one's number is its place in the order of the requests
        self._latest = 0  # the number of the switch that chose the current model

    async def start(self, *, is_chosen: bool) -> None:
        """Starts loading the current model without waiting for it.

        If the default model was not set explicitly and is not on the disk, the built-in model answers while
        it is downloaded, and keeps answering if the download fails.
        """
        default = self._registry.current
        if default is None:
            self._registry.note = "The server was started without a model: name one, or switch to one."
        elif is_chosen or await self._is_on_disk(default):
            self._loader.start_background_load(default)
        else:
            builtin = self._registry.find(BUILTIN_NAME)
            self._registry.current, self._pending_default = builtin, default
            self._registry.note = f"{default.name} is not on this machine yet; the built-in model answers."
            self._loader.start_background_load(builtin)
            self._background.spawn(self._hub.check_reachable())  # for those who ask before it is needed
            self._background.spawn(self._replace_builtin(builtin, default))

    async def _is_on_disk(self, state: ModelState) -> bool:
        try:
            return await self._hub.has_first_source(state.profile)
        except ModelUnavailable as error:
            logger.warning("%s", error.message)
            return False

    async def _replace_builtin(self, builtin: ModelState, default: ModelState) -> None:
        """Switches to the default without a gap, unless a request switches to another model meanwhile."""
        await self._wait_for(builtin)
        with self._loader.pin(default):
            await self._wait_for(default)
            if self._pending_default is default and default.status == "loaded":
                self._make_current(default)
            elif self._pending_default is default and default.error is not None:
                self._registry.note = (
                    f"The built-in model answers: {default.error.message} "
                    f"Switch to {default.name} to try again."
                )

    async def _wait_for(self, state: ModelState) -> None:
        """Waits for the model's load. `state.error` keeps its failure."""
        if not state.is_serving:
            with suppress(DomainError):
                await self._loader.start_background_load(state).result()

    async def switch(self, name: str) -> AsyncGenerator[LoadEvent, None]:
        """Makes another model the current one. The old one serves until then; a failure changes nothing.

        Of several switches at once, the one that was asked for last decides, in whatever order they end.

        Raises:
            ModelNotFound, ModelUnavailable.
        """
        new, old = self._registry.find(name), self._registry.current
        self._asked = number = self._asked + 1
        try:
            # The new model is released last, or it would be the idle one where there may be only one.
            with self._loader.pin(new), nullcontext() if old is None else self._loader.pin(old):
                async with aclosing(self._load_and_make_current(new, number)) as events:
                    async for event in events:
                        yield event
            return
        except ModelTooLarge:
            old = self._registry.current
            if old is None or not await self._fits_instead(new, old) or number < self._latest:
                raise
        async with aclosing(self._replace(old, new, number)) as events:
            async for event in events:
                yield event

    async def _load_and_make_current(self, new: ModelState, number: int) -> AsyncGenerator[LoadEvent, None]:
        async with aclosing(self._loader.loading(new)) as events:
            async for event in events:
                if isinstance(event, ServedModel):
                    yield done(event, self._decide(new, number))
                else:
                    yield event

    def _decide(self, new: ModelState, number: int) -> str:
        """Makes the loaded model current, unless a later switch has decided. Returns a sentence about it."""
        if number < self._latest and self._registry.current is not None:
            return f"{new.name} is loaded, but a later request switched to {self._registry.current.name}"
        self._latest = number
        self._make_current(new)
        return f"Successfully switched to {new.name}"

    async def _fits_instead(self, new: ModelState, old: ModelState) -> bool:
        weights = await self._hub.on_disk(new.profile)
        if weights is None or new is old:
            return False
        states = [state for state in self._registry.all() if state is not old]
        form = await in_thread(lambda: self._policy.quantization_of(new, weights.path, states))
        needed = await in_thread(lambda: self._policy.needed_bytes(new, weights.path, form))
        return self._policy.fits_instead(needed, old, self._registry.all())

    async def _replace(
        self, old: ModelState, new: ModelState, number: int
    ) -> AsyncGenerator[LoadEvent, None]:
        """Switches without memory for both models.

        New requests wait for the new model, while the old one finishes its requests and is unloaded. If the
        new model fails to load, the old one is loaded again.
        """
        note = f"not enough memory for both, so {old.name} is unloaded first"
        before, self._latest = self._latest, number
        self._make_current(new)
        self._registry.note = f"Switching to {new.name}; {note}."
        try:
            async with aclosing(self._load_and_make_current(new, number)) as events:
                async for event in events:
                    is_progress = isinstance(event, LoadProgress)
                    yield event.model_copy(update={"note": note}) if is_progress else event
        finally:
            if self._registry.current is new and new.loaded is None:
                self._latest = before
                self._roll_back(old, new)

    def _roll_back(self, old: ModelState, new: ModelState) -> None:
        self._make_current(old)
        self._registry.note = f"{new.name} could not be loaded; {old.name} answers again."
        with suppress(ShuttingDown):
            if not old.is_serving:
                self._loader.start_background_load(old)

    def _make_current(self, state: ModelState) -> None:
        before = self._registry.current
        logger.info("current model: %s (was %s)", state.name, None if before is None else before.name)
        self._registry.current, self._registry.note, self._pending_default = state, None, None
        self._evictor.trim()


def done(model: ServedModel, message: str) -> SwitchModelResponse:
    return SwitchModelResponse(
        message=message,
        model_name=model.profile.name,
        model_id=model.model_id,
        load_time=model.load_time_s,
    )
