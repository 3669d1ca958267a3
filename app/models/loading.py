"""Owns one load in progress: shared by everyone who waits for it, cancelled when nobody does any more."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass

from app.core.catalogue import ModelProfile
from app.core.errors import ShuttingDown
from app.engine.client import EngineClient
from app.models.schemas import LoadProgress

Report = Callable[[str, float], None]  # stage, measured fraction


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model that answers. `model_id` is what it is really served from."""

    profile: ModelProfile
    model_id: str
    client: EngineClient
    load_time_s: float


class Load:
    """Runs `work` in a task, and gives it a function to report to, from any thread."""

    def __init__(self, profile: ModelProfile, work: Callable[[Report], Awaitable[LoadedModel]]) -> None:
        self.progress = LoadProgress(model_name=profile.name, stage="resolve", fraction=0)
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._waiters = 0
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
            if self._waiters == 0:
                self._task.cancel()

    async def result(self) -> LoadedModel:
        """Waits for the model.

        Raises:
            ModelUnavailable: the load failed.
        """
        async with aclosing(self.events()) as events:
            async for _ in events:
                pass
        return self._task.result()

    async def cancel(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _report(self, stage: str, fraction: float) -> None:
        self._loop.call_soon_threadsafe(self._set, stage, fraction)

    def _set(self, stage: str, fraction: float) -> None:
        name = self.progress.model_name
        self.progress = LoadProgress(model_name=name, stage=stage, fraction=min(1.0, max(0.0, fraction)))
        self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
