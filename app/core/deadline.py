"""The deadline of a request. The handler creates it on arrival and passes it to every function that waits."""

import asyncio
import time
from dataclasses import dataclass


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
