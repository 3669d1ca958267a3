"""Owns the way to a server: one that is named, one that is found, or one that is started here."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.cli.errors import ClientError, NotOurServer, Unreachable
from app.cli.input.interrupts import Interrupts
from app.cli.net.client import ChatClient
from app.cli.net.server import COMMAND, OwnServer, ServerDied, default_address, port_for_own, url_of
from app.cli.output.terminal import Terminal
from app.models.schemas import HealthResponse

ENDING_S = 1.0  # a process that is killed closes its connections a little before it has ended


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """What the command line and the environment say about the server."""

    environ: Mapping[str, str]
    url: str | None = None
    api_key: str | None = None
    model: str | None = None
    command: tuple[str, ...] = COMMAND


class Connection:
    """The way to one server. Where none is named and none answers, it starts its own, and stops it."""

    health: HealthResponse  # as it last was; from `open` on

    def __init__(self, client: ChatClient, wanted: ServerTarget) -> None:
        self.client = client
        self._target = wanted
        self._own: OwnServer | None = None

    async def open(self, terminal: Terminal, interrupts: Interrupts) -> None:
        """
        Raises:
            ClientError: there is no server and none can be started, or it refuses.
            Interrupted: Ctrl-C while it started.
        """
        if await self._find():
            return
        own = self._make_own()
        terminal.note(f"No server runs yet: starting one at {own.url}, and its log is")
        terminal.say(str(own.log), "dim", whole=True)
        try:
            await interrupts.run(self._start(own, terminal))
        except ServerDied:  # another client's, begun in the same moment, may have been faster to the port
            if not await self._find():
                raise
            terminal.note("Another server answers there now.")

    async def revive(self, error: Unreachable, terminal: Terminal) -> None:
        """Has a server answer again after `error`: another client may have started one by now.

        Raises:
            ClientError: `error`, where it is not for us to start one; or why none can be started.
        """
        if self._target.url is not None:
            raise _with_command(error)
        if self._own is not None and not await self._own.ends_within(ENDING_S):
            raise error
        if await self._find():
            terminal.note("A server answers there again.")
            return
        terminal.note("The server had ended; starting one.")
        await self._start(self._make_own(), terminal)

    def close(self) -> None:
        if self._own is not None:
            self._own.stop()

    async def _find(self) -> bool:
        """Whether one answers as this program does; if it is named, it must."""
        try:
            self.health = await self.client.health()
        except (Unreachable, NotOurServer) as error:
            if self._target.url is None:
                return False
            raise _with_command(error) from None
        return True

    def _make_own(self) -> OwnServer:
        self.close()
        wanted = self._target
        host, port = default_address(wanted.environ)
        environ = dict(wanted.environ)
        if wanted.model is not None:
            environ["LLM_MODEL_NAME"] = wanted.model
        if wanted.api_key is not None:
            environ["LLM_API_KEY"] = wanted.api_key
        self._own = OwnServer(host, port_for_own(host, port), environ, wanted.command)
        return self._own

    async def _start(self, own: OwnServer, terminal: Terminal) -> None:
        own.start()
        self.client.move_to(own.url)
        with terminal.bar() as bar:
            self.health = await own.until_ready(self.client, bar)


@asynccontextmanager
async def connected(
    wanted: ServerTarget, terminal: Terminal, interrupts: Interrupts
) -> AsyncIterator[Connection]:
    """A server that answers. Raises what `Connection.open` does."""
    url = wanted.url or url_of(*default_address(wanted.environ))
    async with ChatClient(url, wanted.api_key) as client:
        connection = Connection(client, wanted)
        try:
            await connection.open(terminal, interrupts)
            yield connection
        finally:
            connection.close()


def _with_command(error: ClientError) -> ClientError:
    hint = "Start one with: uvicorn app.main:app --host 0.0.0.0 --port 8000"
    return type(error)(error.message, hint) if isinstance(error, Unreachable) else error
