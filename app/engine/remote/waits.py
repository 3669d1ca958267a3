"""Limits how long a request waits for a remote engine: to its deadline, or to the end of the backend."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx

from app.core.deadline import Deadline
from app.core.errors import ShuttingDown
from app.engine.backend import deadline_exceeded


class OpenWaits:
    """The waits in progress for one remote engine. `end` ends them, and each later one at once."""

    def __init__(self) -> None:
        self._limits: set[asyncio.Timeout] = set()
        self._given_up: set[asyncio.Timeout] = set()
        self.has_ended = False

    def give_up(self) -> None:
        """Ends the waits in progress, as the engine answers nothing any more."""
        self._given_up |= self._limits
        for limit in self._limits:
            limit.reschedule(0)

    def end(self) -> None:
        self.has_ended = True
        for limit in self._limits:
            limit.reschedule(0)

    @asynccontextmanager
    async def until(self, deadline: Deadline) -> AsyncIterator[None]:
        """Lets the block run until the deadline.

        Raises:
            DeadlineExceeded: it has passed.
            httpx.ReadTimeout: the wait was given up.
            ShuttingDown: the waits were ended.
        """
        limit = asyncio.timeout(0 if self.has_ended else deadline.remaining_s)
        try:
            async with limit:
                self._limits.add(limit)
                try:
                    yield
                finally:
                    self._limits.discard(limit)
        except TimeoutError:
            if limit in self._given_up:
                raise httpx.ReadTimeout("the engine answers nothing any more") from None
            if self.has_ended:
                raise ShuttingDown("The server is shutting down.", hint="Send the message again.") from None
            raise deadline_exceeded() from None
        finally:
            self._given_up.discard(limit)
