"""Waits for a condition by asking again and again, for a limited time."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from typing import TypeVar

T = TypeVar("T")
LIMIT_S = 120.0
_INTERVAL_S = 0.01


def wait_for(condition: Callable[[], T], description: str = "a condition", limit_s: float = LIMIT_S) -> T:
    """Returns the value of the condition as soon as it is true. Fails if it is not within `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited too long for {description}"
        time.sleep(_INTERVAL_S)
    return found


async def until(
    condition: Callable[[], object], description: str = "a condition", limit_s: float = LIMIT_S
) -> None:
    """Returns when the condition holds; other tasks run meanwhile. Fails if it does not within `limit_s`."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, f"waited too long for {description}"
        await asyncio.sleep(_INTERVAL_S)


async def attempts(description: str, limit_s: float = LIMIT_S, pause_s: float = 0.2) -> AsyncIterator[int]:
    """Yields the number of each attempt, from 1 on, until one succeeds. Fails after `limit_s`."""
    deadline, number = time.monotonic() + limit_s, 0
    while True:
        number += 1
        yield number
        assert time.monotonic() < deadline, f"tried too long: {description}"
        await asyncio.sleep(pause_s)
