"""Owns how long work of the server shows itself: what it is at, as it measured it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from contextlib import aclosing

from app.cli.errors import ClientError, StreamBroken
from app.cli.net.client import ChatClient
from app.cli.output.formatting import duration_of, size_of
from app.cli.output.terminal import Step, Terminal
from app.models.schemas import HealthResponse, LoadProgress, SwitchModelResponse

PATIENCE_S = 0.7  # before a wait is explained
OWN_PATIENCE_S = 0.3  # where no reply can be on its way
POLL_S = 0.2


def progress_of(progress: LoadProgress) -> Step:
    note = f" ({progress.note})" if progress.note else ""
    label = f"{progress.model_name}: {progress.stage}{note}"
    return Step(label, progress.fraction or None, " ".join(_bytes(progress)))


def _bytes(progress: LoadProgress) -> list[str]:
    """Of a download, as far as it was measured by now."""
    done, total = progress.done_bytes, progress.total_bytes
    rate, left_s = progress.bytes_per_s, progress.seconds_left
    return [
        *([f"{size_of(done)} of {size_of(total)}"] if done is not None and total is not None else []),
        *([f"at {size_of(rate)}/s"] if rate else []),
        *([f"({duration_of(left_s)} left)"] if left_s is not None else []),
    ]


def waiting_for(health: HealthResponse) -> Step:
    """What a request that has no answer yet waits for, and how far that is."""
    own = health.model.progress if health.model is not None else None
    progress = own or next(iter(health.loading), None)
    if health.status == "loading" and progress is not None:
        return progress_of(progress)
    return Step(f"waiting in a queue of {health.queued_requests}" if health.queued_requests else "reading")


@contextlib.asynccontextmanager
async def explained(client: ChatClient, terminal: Terminal) -> AsyncIterator[None]:
    """A wait inside this context shows what the server is at, once it takes long."""
    async with _beside(_watch(client, terminal)):
        yield


@contextlib.asynccontextmanager
async def shown_if_long(terminal: Terminal, label: str) -> AsyncIterator[None]:
    """Work of the client itself, of which nobody knows how far it is."""
    async with _beside(_show(terminal, label)):
        yield


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    working = asyncio.create_task(work)
    try:
        yield
    finally:
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)


async def _show(terminal: Terminal, label: str) -> None:
    await asyncio.sleep(OWN_PATIENCE_S)
    with terminal.bar() as bar:
        bar.show(Step(label))
        await asyncio.Event().wait()


async def _watch(client: ChatClient, terminal: Terminal) -> None:
    await asyncio.sleep(PATIENCE_S)
    with terminal.bar() as bar, contextlib.suppress(ClientError):
        while True:
            bar.show(waiting_for(await client.health()))
            await asyncio.sleep(POLL_S)


async def shown_switch(client: ChatClient, terminal: Terminal, name: str) -> SwitchModelResponse:
    """Switches the server to another model, with a bar of how far it has come."""
    with terminal.bar() as bar:
        async with aclosing(client.switch(name)) as events:
            async for event in events:
                if isinstance(event, LoadProgress):
                    bar.show(progress_of(event))
                if isinstance(event, SwitchModelResponse):
                    return event
    raise StreamBroken("The server ended the switch without a word.", "/models shows what is loaded.")
