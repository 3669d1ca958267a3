"""Waits for a condition by asking again and again, for a limited time."""

import asyncio
import time
from collections.abc import Callable

LIMIT_S = 120.0
_INTERVAL_S = 0.01


def wait_for(
    condition: Callable[[], object], description: str = "a condition", limit_s: float = LIMIT_S
) -> None:
    """Returns when the condition holds. Fails if it does not within `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {description}"
        time.sleep(_INTERVAL_S)


async def until(
    condition: Callable[[], object], description: str = "a condition", limit_s: float = LIMIT_S
) -> None:
    """Returns when the condition holds; other tasks run meanwhile. Fails if it does not within `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {description}"
        await asyncio.sleep(_INTERVAL_S)
