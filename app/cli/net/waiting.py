"""Shows what the server is doing while the client waits for it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import aclosing

from app.cli.errors import ClientError, StreamBroken
from app.cli.net.client import ChatClient
from app.cli.output.load_progress import beside, progress_of, wait_reason
from app.cli.output.terminal import Terminal
from app.models.schemas import LoadProgress, SwitchModelResponse

DELAY_S = 0.7  # before a wait is explained
POLL_S = 0.2


@contextlib.asynccontextmanager
async def wait_explained(client: ChatClient, terminal: Terminal) -> AsyncIterator[None]:
    """Shows what the server is doing if the body of this context waits long for it."""
    async with beside(_explain_wait(client, terminal)):
        yield


async def _explain_wait(client: ChatClient, terminal: Terminal) -> None:
    await asyncio.sleep(DELAY_S)
    with terminal.bar() as bar, contextlib.suppress(ClientError):
        while True:
            bar.show(wait_reason(await client.health()))
            await asyncio.sleep(POLL_S)


async def switch_with_progress(client: ChatClient, terminal: Terminal, name: str) -> SwitchModelResponse:
    """Switches the server to another model and shows a progress bar.

    Raises:
        ClientError: the switch failed.
    """
    with terminal.bar() as bar:
        async with aclosing(client.switch(name)) as events:
            async for event in events:
                if isinstance(event, LoadProgress):
                    bar.show(progress_of(event))
                if isinstance(event, SwitchModelResponse):
                    return event
    raise StreamBroken("The server ended the switch without a result.", "/models shows what is loaded.")
