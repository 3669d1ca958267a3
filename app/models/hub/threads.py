"""Runs blocking work in daemon threads, and defines how long work on the network may take.

The worker threads of asyncio and anyio are not daemons. One that hangs, in a name look-up or on a network
disk, would keep the server from exiting. Here, each piece of work gets a thread of its own.
"""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from app.core.errors import ModelLoadFailed

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class NetworkTimeouts:
    probe_s: float = 3.0  # for connecting to the Hub, before it counts as unreachable
    read_s: float = 10.0  # of silence in the middle of a file
    retry_s: float = 0.5  # pause after the first failure; later pauses are longer
    disk_s: float = 10.0  # for looking at one model's files, which may be on a network disk


async def in_thread(work: Callable[[], T]) -> T:
    """Returns the result of `work`, or raises its error. After a cancellation the thread keeps running."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def run() -> None:
        try:
            settle = partial(_set_result, future, work())
        except Exception as error:  # the thread's root: the error is raised in the waiting coroutine
            settle = partial(_set_exception, future, error)
        with suppress(RuntimeError):  # the loop is closed, so no coroutine waits any more
            loop.call_soon_threadsafe(settle)

    threading.Thread(target=run, name="hub", daemon=True).start()
    return await future


async def ask_disk(look: Callable[[], T], limit_s: float) -> T:
    """Returns what `look` finds on a disk.

    Raises:
        ModelLoadFailed: the disk does not answer within `limit_s`. The thread keeps waiting on its own.
    """
    try:
        return await asyncio.wait_for(in_thread(look), limit_s)
    except TimeoutError:
        raise ModelLoadFailed(
            "The disk with the model's files does not answer.",
            hint="Check the disk of LLM_MODEL_CACHE_DIR, or of the folder that was named.",
            retry_after=10,
        ) from None


def _set_result(future: asyncio.Future[T], result: T) -> None:
    if not future.done():
        future.set_result(result)


def _set_exception(future: asyncio.Future[T], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
