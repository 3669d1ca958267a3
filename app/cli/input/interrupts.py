"""Owns Ctrl-C while something runs: it cancels that, and never the program."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

Result = TypeVar("Result")


class Interrupted(Exception):
    """The user stopped what was running."""


class Interrupts:
    """Runs one thing at a time that Ctrl-C can stop."""

    def __init__(self) -> None:
        self._running: asyncio.Task[Any] | None = None  # Any: of whatever result
        self._loop: asyncio.AbstractEventLoop | None = None

    def fire(self) -> None:
        """Stops what is running. Called on the event loop."""
        if self._running is not None:
            self._running.cancel()

    def fire_from_outside(self) -> None:
        """The same, called in another thread."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.fire)

    async def run(self, work: Coroutine[object, object, Result]) -> Result:
        """
        Raises:
            Interrupted: Ctrl-C stopped it.
        """
        self._running = task = asyncio.ensure_future(work)
        self._loop = asyncio.get_running_loop()
        try:
            with self.on_ctrl_c():
                return await task
        except asyncio.CancelledError:
            current = asyncio.current_task()
            if current is not None and current.cancelling():
                raise
            raise Interrupted from None
        finally:
            self._running = None

    @contextlib.contextmanager
    def on_ctrl_c(self) -> Iterator[None]:
        """Within, Ctrl-C stops what is running, and does nothing where nothing is."""
        self._loop = asyncio.get_running_loop()
        with self.fired_by_ctrl_c():
            yield

    @contextlib.contextmanager
    def fired_by_ctrl_c(self) -> Iterator[None]:
        """The same, around what runs in another thread. Only the main thread gets signals: in any other this
        changes nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # Not the loop's own handlers: removing one leaves a moment in which Ctrl-C ends the program.
        before = signal.signal(signal.SIGINT, lambda *_: self.fire_from_outside())
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
