"""Owns which model answers when a request names none, and the way from one to another.

Without a gap where the memory holds both; one after the other where it does not.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, nullcontext, suppress

from app.core.catalogue import BUILTIN_NAME
from app.core.errors import ModelTooLarge, ShuttingDown
from app.models.hub.client import Hub
from app.models.lifecycle.eviction import EvictionPolicy
from app.models.lifecycle.loader import ModelLoader
from app.models.lifecycle.registry import ModelRegistry
from app.models.lifecycle.state import ModelState, ServedModel
from app.models.schemas import LoadProgress, SwitchModelResponse

logger = logging.getLogger(__name__)

LoadEvent = LoadProgress | SwitchModelResponse


class ModelSwitch:
    """`note` is what a person should know of the choice."""

    def __init__(
        self,
        current: ModelState | None,
        entries: ModelRegistry,
        hub: Hub,
        residency: EvictionPolicy,
        workers: ModelLoader,
    ) -> None:
        self.current = current
        self.note: str | None = None
        self._entries = entries
        self._hub = hub
        self._residency = residency
        self._workers = workers
        self._awaited_default: ModelState | None = None  # takes over from the built-in model once it can

    def start(self, *, is_chosen: bool) -> None:
        """Begins to load and returns at once.

        A model that was chosen is waited for. The default is not, when it is not on disk: the built-in model
        answers while the default is fetched, and goes on if it cannot be had.
        """
        default = self.current
        if default is None:
            self.note = "The server was started without a model: name one, or switch to one."
        elif is_chosen or self._hub.has_first_source(default.profile):
            self._workers.begin(default)
        else:
            self.current, self._awaited_default = self._entries.find(BUILTIN_NAME), default
            self.note = f"{default.profile.name} is not on this machine yet; the built-in model answers."
            self._workers.begin(self.current)
            self._workers.spawn(self._replace_builtin(default))

    async def _replace_builtin(self, default: ModelState) -> None:
        """The ordinary gapless switch, begun by the server itself; any other switch overrules it."""
        assert self.current is not None
        await self._workers.load_quietly(self.current)
        with self._workers.held(default):
            await self._workers.load_quietly(default)
            if self._awaited_default is default and default.state == "loaded":
                self._make_current(default)
            elif self._awaited_default is default and default.error is not None:
                self.note = f"The built-in model answers: {default.error.message}"

    async def switch(self, name: str) -> AsyncGenerator[LoadEvent, None]:
        """Makes another model the current one. The old one serves until then; a failure changes nothing.

        Raises:
            ModelNotFound, ModelUnavailable.
        """
        entry, old = self._entries.find(name), self.current
        try:
            with nullcontext() if old is None else self._workers.held(old):
                async with aclosing(self._taking_over(entry)) as events:
                    async for event in events:
                        yield event
            return
        except ModelTooLarge:
            if old is None or not self._fits_instead(entry, old):
                raise
        async with aclosing(self._replacing(old, entry)) as events:
            async for event in events:
                yield event

    async def _taking_over(self, entry: ModelState) -> AsyncGenerator[LoadEvent, None]:
        async with aclosing(self._workers.loading(entry)) as events:
            async for event in events:
                if isinstance(event, ServedModel):
                    self._make_current(entry)
                    yield done(event, f"Successfully switched to {entry.profile.name}")
                else:
                    yield event

    def _fits_instead(self, entry: ModelState, old: ModelState) -> bool:
        weights = self._hub.find(entry.profile)
        if weights is None or entry is old:
            return False
        needed = self._residency.needed_bytes(entry, weights.path)
        return self._residency.fits_instead(needed, old, self._entries.all())

    async def _replacing(self, old: ModelState, entry: ModelState) -> AsyncGenerator[LoadEvent, None]:
        """Without memory for both: who asks from now on waits for the new model, while the old one ends what
        it is at and leaves. It comes back if the new one cannot be had."""
        note = f"not enough memory for both: {old.profile.name} is unloaded first"
        self._make_current(entry)
        self.note = f"Switching to {entry.profile.name}; {note}."
        try:
            async with aclosing(self._taking_over(entry)) as events:
                async for event in events:
                    is_progress = isinstance(event, LoadProgress)
                    yield event.model_copy(update={"note": note}) if is_progress else event
        finally:
            if self.current is entry and entry.loaded is None:
                self._roll_back(old, entry)

    def _roll_back(self, old: ModelState, entry: ModelState) -> None:
        self._make_current(old)
        self.note = f"{entry.profile.name} could not be loaded; {old.profile.name} goes on."
        with suppress(ShuttingDown):
            if not self._workers.is_serving(old):
                self._workers.begin(old)

    def _make_current(self, entry: ModelState) -> None:
        was = None if self.current is None else self.current.profile.name
        logger.info("current model: %s (was %s)", entry.profile.name, was)
        self.current, self.note, self._awaited_default = entry, None, None
        self._workers.trim_soon()


def done(loaded: ServedModel, message: str) -> SwitchModelResponse:
    return SwitchModelResponse(
        message=message,
        model_name=loaded.profile.name,
        model_id=loaded.model_id,
        load_time=loaded.load_time_s,
    )
