"""Runs the background tasks of the model lifecycle, logs their failures, and ends them with the server."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

logger = logging.getLogger(__name__)


class BackgroundTasks:
    """Tasks that run until they or the server end. The owner must await `close`."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:  # Any: a coroutine's yield and send types
        """Starts the work, or drops it if `close` was called before."""
        if self._is_closed:
            work.close()
            return
        task = asyncio.create_task(_run(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Cancels all tasks and waits until they have ended."""
        self._is_closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _run(work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:  # the task's root
        logger.exception("background work failed")
