"""Owns the loop of questions and answers, and what is said of every failure in it."""

import asyncio
import contextlib
import traceback

from pydantic import ValidationError

from app.cli import startup
from app.cli.commands import registry as commands
from app.cli.commands.model import choose_again
from app.cli.conversation.session import Session
from app.cli.errors import ClientError, UnknownCommand, Unreachable
from app.cli.input.interrupts import Interrupted, Interrupts
from app.cli.input.prompt import Prompt
from app.cli.net.connection import Connection
from app.cli.oneshot import why_unsent
from app.cli.output.model_table import current_model_line
from app.cli.paths import private_file, state_folder

LOAD_AHEAD_S = 0.1  # until the first prompt is on the screen


class Chat:
    """Asks, does what was asked for, and asks again: no error ends it."""

    def __init__(
        self, session: Session, connection: Connection, prompt: Prompt, interrupts: Interrupts
    ) -> None:
        self._session = session
        self._connection = connection
        self._prompt = prompt
        self._interrupts = interrupts

    async def run(self) -> None:
        loading = asyncio.ensure_future(self._load_ahead())
        try:
            with contextlib.suppress(EOFError, commands.Leave), self._interrupts.on_ctrl_c():
                while True:
                    await self._turn()
        finally:
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)

    async def _load_ahead(self) -> None:
        """What fails here fails again in the answer that needs it, and is told there."""
        await asyncio.sleep(LOAD_AHEAD_S)
        await asyncio.to_thread(self._session.terminal.load_ahead)
        startup.settle()

    async def _turn(self) -> None:
        line = await self._prompt.ask(self._session.draft)
        self._session.draft = ""
        if line.strip():
            await self._do(line)
            self._tell_unwritten()
            self._session.terminal.say("")

    async def _do(self, line: str) -> None:
        terminal, reply_before = self._session.terminal, self._session.last_reply
        try:
            await self._interrupts.run(self._act(line))
        except Interrupted:
            was_answer = self._session.last_reply is not reply_before
            goes_on = was_answer and self._session.was_cut
            terminal.note("Stopped: /continue goes on." if goes_on else "Stopped.")
        except UnknownCommand as error:
            self._session.draft = line
            terminal.problem(error)
        except Unreachable as error:
            self._session.draft = line
            await self._revive(error)
        except ClientError as error:
            terminal.problem(error)
        except ValidationError as error:
            terminal.fail(why_unsent(error))
        except (commands.Leave, BrokenPipeError):
            raise
        except Exception as error:
            terminal.fail(f"This is a fault of the client: {error!r}.", _log_fault())

    def _tell_unwritten(self) -> None:
        failure = self._session.autosave.failure()
        if failure is not None:
            self._session.terminal.fail(failure.message, "It is not kept; /save and /export may find room.")

    async def _act(self, line: str) -> None:
        meant = commands.parse(line)
        if isinstance(meant, str):
            await self._session.send(meant)
        else:
            await meant.command.run(self._session, meant.argument)

    async def _revive(self, error: Unreachable) -> None:
        terminal = self._session.terminal
        try:
            await self._interrupts.run(self._bring_back(error))
        except Interrupted:
            terminal.note("Stopped.")
        except ClientError as again:
            terminal.problem(again)

    async def _bring_back(self, error: Unreachable) -> None:
        terminal = self._session.terminal
        await self._connection.revive(error, terminal)
        await self._session.refresh_models()
        await choose_again(self._session)
        self._connection.health = await self._session.client.health()
        terminal.say(current_model_line(self._connection.health))
        terminal.note("Enter sends your line again.")


def _log_fault() -> str:
    """Returns where it is told in full."""
    try:
        log = private_file(state_folder() / "client.log")
        with log.open("a") as file:
            file.write(traceback.format_exc())
    except OSError as error:
        return f"It cannot be told in full: {error.strerror}."
    return f"Told in full in {log}"
