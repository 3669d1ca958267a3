"""The deadline of a request. The handler creates it on arrival and passes it to every function that waits."""

import asyncio
import time
from collections.abc import Awaitable, Generator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Deadline:
    """A moment on the monotonic clock, in seconds."""

    at: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        return cls(time.monotonic() + seconds)

    @property
    def remaining_s(self) -> float:
        """The seconds left; 0 once the deadline has passed."""
        return max(0.0, self.at - time.monotonic())

    def limit(self) -> asyncio.Timeout:
        """Returns an async context manager that raises TimeoutError at the deadline."""
        return asyncio.timeout(self.remaining_s)

    async def finish(self, work: Awaitable[None]) -> None:
        """Awaits the work. Raises TimeoutError at the deadline, if the work waits then.

        Work that does not wait takes no timer, whose making would take longer than writing a token.
        """
        started = _Started(work)
        if not started.has_ended:
            async with self.limit():
                await started


class _Started:
    """Work that has run until it waits for the first time. Await it at once, in the same task."""

    def __init__(self, work: Awaitable[None]) -> None:
        self._steps = work.__await__()
        self._waits_for: object = None
        try:
            self._waits_for = next(self._steps)
            self.has_ended = False
        except StopIteration:
            self.has_ended = True

    def __await__(self) -> Generator[object, Any, None]:  # Any: what asyncio sends
        try:
            while True:
                try:
                    sent = yield self._waits_for
                except BaseException as error:
                    self._waits_for = self._steps.throw(error)
                else:
                    self._waits_for = self._steps.send(sent)
        except StopIteration:
            return
