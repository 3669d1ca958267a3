"""The deadline of a request: made when it arrives, and passed down to everything that waits."""

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
        """Seconds left; 0 once the deadline has passed."""
        return max(0.0, self.at - time.monotonic())

    def limit(self) -> asyncio.Timeout:
        """An async context manager that raises TimeoutError at the deadline."""
        return asyncio.timeout(self.remaining_s)
