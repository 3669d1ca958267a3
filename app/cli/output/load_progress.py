"""Describes the progress of model loads and queues, and shows work of the client that takes long."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine

from app.cli.output.formatting import format_duration, format_size
from app.cli.output.progress_bar import ProgressUpdate
from app.cli.output.terminal import Terminal
from app.models.schemas import HealthResponse, LoadProgress

_STAGES = {
    "resolve": "finding its files",
    "verify": "checking its files",
    "download": "downloading",
    "drain": "waiting for the answers of another model",
    "convert": "converting its weights",
    "import": "starting its worker",
    "load": "reading its weights",
    "check": "checking its first results",
    "pack": "arranging its weights",
    "warm up": "warming up",
}
_MEASURED = ("verify", "download", "load", "pack")  # the others report their beginning and end only
DELAY_S = 0.3  # before slow work is shown


def progress_of(progress: LoadProgress) -> ProgressUpdate:
    note = f" ({progress.note})" if progress.note else ""
    label = f"{progress.model_name}: {_STAGES.get(progress.stage, progress.stage)}{note}"
    is_measured = progress.stage in _MEASURED and 0 < progress.fraction < 1
    return ProgressUpdate(label, progress.fraction if is_measured else None, _download_details(progress))


def _download_details(progress: LoadProgress) -> list[str]:
    """Size, speed and remaining time, if they are known."""
    done, total = progress.done_bytes, progress.total_bytes
    rate, left_s = progress.bytes_per_s, progress.seconds_left
    return [
        *([f"{format_size(done)} of {format_size(total)}"] if done is not None and total is not None else []),
        *([f"at {format_size(rate)}/s"] if rate else []),
        *([f"({format_duration(left_s)} left)"] if left_s is not None else []),
    ]


def wait_reason(health: HealthResponse) -> ProgressUpdate:
    """What a request that has no answer yet is waiting for."""
    own = health.model.progress if health.model is not None else None
    progress = own or next(iter(health.loading), None)
    if health.status == "loading" and progress is not None:
        return progress_of(progress)
    queued = health.queued_requests
    return ProgressUpdate(f"waiting in a queue of {queued}" if queued else "reading the prompt")


@contextlib.asynccontextmanager
async def shown_if_slow(terminal: Terminal, label: str) -> AsyncIterator[None]:
    """Shows the label if the body of this context takes long."""
    async with beside(_show_label(terminal, label)):
        yield


@contextlib.asynccontextmanager
async def beside(work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    """Runs `work` in a task as long as this context is open."""
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _show_label(terminal: Terminal, label: str) -> None:
    await asyncio.sleep(DELAY_S)
    with terminal.bar() as bar:
        bar.show(ProgressUpdate(label))
        await asyncio.Event().wait()
