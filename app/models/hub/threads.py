"""Owns blocking work beside the event loop: threads that keep no process alive, and how long they wait."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NetworkTimeouts:
    """With the network, in seconds."""

    probe_s: float = 3.0  # until it counts as not there
    read_s: float = 10.0  # of silence in the middle of a file
    retry_s: float = 0.5  # after the first failure; longer after each further one


async def in_thread(work: Callable[[], T]) -> T:
    """Runs `work` in a daemon thread: unlike asyncio's own, one that hangs does not keep the process."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(settle_with: Callable[[Any], None], outcome: Any) -> None:  # Any: a result or an exception
        if not future.done():
            settle_with(outcome)

    def run() -> None:
        try:
            outcome: tuple[Callable[[Any], None], Any] = (future.set_result, work())
        except Exception as error:  # the thread's root: it is raised where the thread is waited for
            outcome = (future.set_exception, error)
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, *outcome)

    threading.Thread(target=run, name="hub", daemon=True).start()
    return await future
