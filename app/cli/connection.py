"""Owns the way to a server: one that is named, one that is found, or one that is started here."""

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

from app.cli.client import ChatClient, ClientError, Foreign, Unreachable
from app.cli.interrupts import Interrupts
from app.cli.server import OwnServer, default_address, port_for_own, url_of
from app.cli.terminal import Terminal
from app.models.schemas import HealthResponse


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the command line and the environment say about the server."""

    environ: Mapping[str, str]
    url: str | None = None
    api_key: str | None = None
    model: str | None = None


@dataclass(slots=True)
class Connection:
    client: ChatClient
    health: HealthResponse
    own: OwnServer | None = None

    async def revive(self, terminal: Terminal) -> bool:
        """Starts our own server again if it is what ended; whether it was."""
        if self.own is None or self.own.is_alive:
            return False
        terminal.note("The server had ended; starting it again.")
        self.health = await _started(self.own, self.client, terminal)
        return True


@asynccontextmanager
async def connected(wanted: Wanted, terminal: Terminal, interrupts: Interrupts) -> AsyncIterator[Connection]:
    """A server that answers.

    Raises:
        ClientError: there is none and none can be started, or it refuses.
        Interrupted: Ctrl-C while it started.
    """
    url = wanted.url or url_of(*default_address(wanted.environ))
    async with ChatClient(url, wanted.api_key) as client:
        health = await _health(client, is_named=wanted.url is not None)
        if health is not None:
            yield Connection(client, health)
            return
    with _own_server(wanted) as own:
        async with ChatClient(own.url, wanted.api_key) as client:
            terminal.note(f"No server runs yet: starting one at {own.url}, and its log is")
            terminal.say(str(own.log), "dim", whole=True)
            health = await interrupts.run(_started(own, client, terminal))
            yield Connection(client, health, own)


async def _health(client: ChatClient, is_named: bool) -> HealthResponse | None:
    """None where nobody answers as this program does, and a server may be started instead."""
    try:
        return await client.health()
    except (Unreachable, Foreign) as error:
        if not is_named:
            return None
        raise _with_command(error) from None


def _with_command(error: ClientError) -> ClientError:
    hint = "Start one with: uvicorn app.main:app --host 0.0.0.0 --port 8000"
    return type(error)(error.message, hint) if isinstance(error, Unreachable) else error


@contextmanager
def _own_server(wanted: Wanted) -> Iterator[OwnServer]:
    host, port = default_address(wanted.environ)
    environ = dict(wanted.environ)
    if wanted.model is not None:
        environ["LLM_MODEL_NAME"] = wanted.model
    if wanted.api_key is not None:
        environ["LLM_API_KEY"] = wanted.api_key
    own = OwnServer(host, port_for_own(host, port), environ)
    try:
        yield own
    finally:
        own.stop()


async def _started(own: OwnServer, client: ChatClient, terminal: Terminal) -> HealthResponse:
    own.start()
    with terminal.bar() as bar:
        return await own.until_ready(client, bar)
