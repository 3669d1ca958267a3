"""Connects to a server: a named one, a running one, or one that the client starts itself."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass

from app.cli.errors import NotOurServer, ServerDied, Unreachable
from app.cli.input.interrupts import Interrupts
from app.cli.net.client import ChatClient
from app.cli.net.server import COMMAND, OwnServer, choose_port, default_address, default_setting, url_of
from app.cli.output.terminal import Terminal
from app.models.schemas import HealthResponse

EXIT_TIMEOUT_S = 1.0  # a killed process closes its connections shortly before it ends


@dataclass(frozen=True, slots=True)
class ServerTarget:
    """The server to use, from the options and the environment.

    `url` is None unless the user named one, in `url_setting`.
    """

    environ: Mapping[str, str]
    url: str | None = None
    api_key: str | None = None
    model: str | None = None
    command: tuple[str, ...] = COMMAND
    url_setting: str = "--url"

    @property
    def address_setting(self) -> str:
        """The setting that the address comes from, for error messages."""
        return default_setting(self.environ) if self.url is None else self.url_setting


class Connection:
    """A connection to one server. If none is named and none answers, starts one and stops it at the end."""

    health: HealthResponse  # the last known state; set by `open`

    def __init__(self, client: ChatClient, target: ServerTarget) -> None:
        self.client = client
        self._target = target
        self._own: OwnServer | None = None

    async def open(self, terminal: Terminal, interrupts: Interrupts) -> None:
        """Finds or starts a server and waits until it is ready.

        Raises:
            ClientError: no server answers and none can be started, or the server refuses.
            Interrupted: Ctrl-C during the start.
        """
        if await self._find():
            return
        own = self._make_own()
        terminal.note(f"No server is running. Starting one at {own.url}. Log file:")
        terminal.say(str(own.log), "dim", whole=True)
        try:
            await interrupts.run(self._start(own, terminal))
        except ServerDied:  # another client started at the same time may have taken the port
            if not await self._find():
                raise
            terminal.note("Another client has started a server there. Using that one.")

    async def revive(self, error: Unreachable, terminal: Terminal) -> None:
        """Finds or starts a server after `error`.

        Raises:
            ClientError: `error`, if the server is a named one or is still running; or the reason why no
                server can be started.
        """
        if self._target.url is not None:
            await self._find()  # if it has ended, that is the error to report
            raise error
        if self._own is not None and not await self._own.ends_within(EXIT_TIMEOUT_S):
            raise error
        if await self._find():
            terminal.note("A server is running there again.")
            return
        terminal.note("The server has ended. Starting a new one.")
        await self._start(self._make_own(), terminal)

    @property
    def loses_conversations(self) -> bool:
        """Whether `close` ends a server that keeps conversations in memory."""
        is_own = self._own is not None and self._own.is_alive
        return is_own and not self._target.environ.get("LLM_DATABASE_URL")

    def close(self) -> None:
        if self._own is not None:
            self._own.stop()

    async def _find(self) -> bool:
        """Returns whether a server answers. Raises if a named one does not."""
        try:
            self.health = await self.client.health()
        except (Unreachable, NotOurServer):
            if self._target.url is None:
                return False
            raise
        return True

    def _make_own(self) -> OwnServer:
        self.close()
        target = self._target
        host, port = default_address(target.environ)
        environ = dict(target.environ)
        if target.model is not None:
            environ["LLM_MODEL_NAME"] = target.model
        if target.api_key is not None:
            environ["LLM_API_KEY"] = target.api_key
        self._own = OwnServer(host, choose_port(host, port), environ, target.command)
        return self._own

    async def _start(self, own: OwnServer, terminal: Terminal) -> None:
        own.start()
        self.client.move_to(own.url)
        with terminal.bar() as bar:
            self.health = await own.until_ready(self.client, bar)


@asynccontextmanager
async def connected(
    target: ServerTarget, terminal: Terminal, interrupts: Interrupts
) -> AsyncIterator[Connection]:
    """Yields a connection to a server that is ready. Raises what `Connection.open` raises."""
    url = target.url or url_of(*default_address(target.environ))
    async with ChatClient(url, target.api_key, setting=target.address_setting) as client:
        connection = Connection(client, target)
        try:
            await connection.open(terminal, interrupts)
            yield connection
        finally:
            connection.close()
