"""Makes Ctrl-C cancel the running command, but never the program."""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

WorkT = TypeVar("WorkT")

CTRL_C = "Ctrl-C"  # the message of the cancellation, which tells it from the end of the program


class Interrupted(Exception):
    """The user pressed Ctrl-C."""


class Interrupts:
    """Runs one coroutine at a time, which Ctrl-C cancels."""

    def __init__(self) -> None:
        self._running: asyncio.Task[Any] | None = None  # Any: its result type varies
        self._loop: asyncio.AbstractEventLoop | None = None

    def fire(self) -> None:
        """Cancels the running coroutine. Call this in the event loop."""
        if self._running is not None:
            self._running.cancel(CTRL_C)

    def fire_from_outside(self) -> None:
        """Cancels the running coroutine. Call this in another thread or in a signal handler."""
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self.fire)

    async def run(self, work: Coroutine[object, object, WorkT]) -> WorkT:
        """Awaits the coroutine and returns its result.

        Raises:
            Interrupted: Ctrl-C cancelled it.
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
        """Inside this context, Ctrl-C cancels the running coroutine, or does nothing if none is running."""
        self._loop = asyncio.get_running_loop()
        with self.fired_by_ctrl_c():
            yield

    @contextlib.contextmanager
    def fired_by_ctrl_c(self) -> Iterator[None]:
        """Like `on_ctrl_c`, but for a coroutine that runs in another thread. Has no effect outside the main
        thread, which alone can handle signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        # Not the loop's own handler: between its removal and its replacement Ctrl-C would end the program.
        before = signal.signal(signal.SIGINT, lambda *_: self.fire_from_outside())
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, before)
