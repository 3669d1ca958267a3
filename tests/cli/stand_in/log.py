"""The events of one turn of the scripted server, which any number of readers follow."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial

from pydantic import BaseModel

from app.models.schemas import StartEvent


class StandInLog:
    """Runs a turn in a task of its own."""

    def __init__(self, events: AsyncIterator[BaseModel]) -> None:
        self.events: list[BaseModel] = []
        self.error: Exception | None = None
        self._is_over = False
        self._changed = asyncio.Condition()
        self.task = asyncio.create_task(self._run(events))

    @property
    def has_begun(self) -> bool:
        return any(isinstance(event, StartEvent) for event in self.events)

    async def read(self, after: int = 0) -> AsyncIterator[tuple[int, BaseModel]]:
        """Yields the events with their ids, from 1 on. Raises the error that ended the turn."""
        while True:
            async with self._changed:
                await self._changed.wait_for(partial(self._has_more, after))
            if len(self.events) == after:
                break
            after += 1
            yield after, self.events[after - 1]
        if self.error is not None:
            raise self.error

    def _has_more(self, after: int) -> bool:
        return self._is_over or len(self.events) > after

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.wait((self.task,))

    async def _run(self, events: AsyncIterator[BaseModel]) -> None:
        try:
            async for event in events:
                self.events.append(event)
                await self._tell()
        except Exception as error:
            self.error = error
        finally:
            self._is_over = True
            await asyncio.shield(self._tell())

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()
