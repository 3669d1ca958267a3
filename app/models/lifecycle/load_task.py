"""A load in progress, which all requests that wait for it share. It is cancelled when the last one leaves."""

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

from app.core.errors import ShuttingDown
from app.models.hub.progress import Transfer
from app.models.lifecycle.served_model import ServedModel
from app.models.metrics.lifecycle_metrics import LoadMeter
from app.models.schemas import FileProgress, LoadProgress

logger = logging.getLogger(__name__)


class LoadMonitor:
    """The newest progress of a load, and an event for its next change. Create it in a running event loop."""

    def __init__(self, model_name: str, meter: LoadMeter) -> None:
        self._meter = meter
        self.progress = LoadProgress(model_name=model_name, stage="resolve", fraction=0)
        self.changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()

    def report(self, stage: str, fraction: float, transfer: Transfer | None = None) -> None:
        """Records new progress. Any thread may call this."""
        progress = _progress(self.progress.model_name, stage, fraction, transfer)
        with suppress(RuntimeError):  # the loop is closed, so no request waits any more
            self._loop.call_soon_threadsafe(self._set, progress)

    def wake(self) -> None:
        """Wakes all waiters, so that they read the progress again."""
        self.changed.set()
        self.changed = asyncio.Event()

    def _set(self, progress: LoadProgress) -> None:
        if progress.stage != self.progress.stage:
            logger.debug("load: model=%s stage=%s", progress.model_name, progress.stage)
            self._meter.enter_stage(progress.stage)
        self.progress = progress
        self.wake()


class Load:
    """A load in progress. `task` loads the model and reports to `monitor`.

    If `is_kept` is set, the load goes on when its waiters leave.
    """

    def __init__(self, task: asyncio.Task[ServedModel], monitor: LoadMonitor) -> None:
        self.is_kept = False
        self.is_cancelled = False
        self._task = task
        self._monitor = monitor
        self._waiters = 0
        task.add_done_callback(self._on_done)

    @property
    def is_done(self) -> bool:
        return self._task.done()

    @property
    def progress(self) -> LoadProgress:
        return self._monitor.progress

    async def events(self) -> AsyncGenerator[LoadProgress, None]:
        """Yields progress as it changes, until the load has ended.

        Raises:
            ModelUnavailable: the load failed, or was cancelled.
        """
        self._waiters += 1
        try:
            while not self._task.done():
                changed = self._monitor.changed
                yield self._monitor.progress
                await changed.wait()
            if self._task.cancelled():
                raise ShuttingDown("The load was cancelled.", hint="Ask for the model again.")
            self._task.result()
        finally:
            self._waiters -= 1
            if self._waiters == 0 and not self.is_kept:
                self.cancel()

    async def result(self) -> ServedModel:
        """Waits for the model.

        Raises:
            ModelUnavailable: the load failed, or was cancelled.
        """
        async with aclosing(self.events()) as events:
            async for _ in events:
                pass
        return self._task.result()

    def cancel(self) -> None:
        """Cancels the load unless it has ended.

        Only the first call has an effect: a second cancellation would interrupt the worker's shutdown.
        """
        if not self.is_cancelled and not self._task.done():
            self.is_cancelled = True
            self._task.cancel()

    async def wait_closed(self) -> None:
        """Waits until the load and everything it started have ended."""
        await asyncio.wait((self._task,))

    def _on_done(self, task: asyncio.Task[ServedModel]) -> None:
        if not task.cancelled():
            task.exception()  # marks it as retrieved: the state keeps the error, even if nobody waits
        self._monitor.wake()


def _progress(name: str, stage: str, fraction: float, transfer: Transfer | None) -> LoadProgress:
    fraction = min(1.0, max(0.0, fraction))
    if transfer is None:
        return LoadProgress(model_name=name, stage=stage, fraction=fraction)
    files = [
        FileProgress(name=f.name, done_bytes=f.done_bytes, total_bytes=f.total_bytes) for f in transfer.files
    ]
    return LoadProgress(
        model_name=name,
        stage=stage,
        fraction=fraction,
        done_bytes=transfer.done_bytes,
        total_bytes=transfer.total_bytes,
        bytes_per_s=transfer.bytes_per_s,
        seconds_left=transfer.seconds_left,
        files=files,
    )
