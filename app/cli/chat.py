"""The chat loop: asks for a line, runs it as a command or a message, and reports errors."""

import asyncio
import traceback

from pydantic import ValidationError

from app.cli import startup_time
from app.cli.commands import registry as commands
from app.cli.commands.conversation import FOLLOW, send
from app.cli.commands.model import restore_chosen_model
from app.cli.conversation.session import Session
from app.cli.errors import ClientError, UnknownCommand, Unreachable
from app.cli.input.interrupts import Interrupted, Interrupts
from app.cli.input.prompt import InputPrompt
from app.cli.net.connection import Connection
from app.cli.oneshot import invalid_message
from app.cli.output.formatting import count
from app.cli.output.model_table import current_model_line
from app.cli.paths import private_file, state_folder

PRELOAD_DELAY_S = 0.1  # lets the first prompt appear


class Chat:
    """Runs lines until the user leaves. No error ends the loop."""

    def __init__(
        self, session: Session, connection: Connection, prompt: InputPrompt, interrupts: Interrupts
    ) -> None:
        self._session = session
        self._connection = connection
        self._prompt = prompt
        self._interrupts = interrupts
        self._has_warned = False  # of what is lost when the user leaves
        self._stops = 0  # lines in a row that Ctrl-C has stopped

    async def run(self) -> None:
        preloading = asyncio.ensure_future(self._preload())
        try:
            with self._interrupts.on_ctrl_c():
                while not await self._wants_to_leave() or await self._warns():
                    pass
        finally:
            preloading.cancel()
            await asyncio.gather(preloading, return_exceptions=True)

    async def _wants_to_leave(self) -> bool:
        """Runs the next line. Returns whether the user leaves with it."""
        try:
            await self._run_next_line()
        except (EOFError, commands.Leave):
            return True
        self._has_warned = False
        return False

    async def _warns(self) -> bool:
        """Says once which conversations end with the client's own server. Returns whether there are any."""
        if self._has_warned or not self._connection.loses_conversations:
            return False
        try:
            session = self._session
            number = len(await session.known_sessions.unknown(session.transcript.conversation_id))
        except ClientError:  # the server has ended already, or keeps its list to itself
            return False
        if number:
            self._has_warned = True
            session.terminal.note(
                f"The server ends with this client, and only it has {count(number, 'conversation')}, such as "
                "those of its web page. They would be lost; LLM_DATABASE_URL keeps them. Quit again to leave."
            )
        return number > 0

    async def _preload(self) -> None:
        """Imports the modules for the first answer. A failure recurs in that answer, which reports it."""
        await asyncio.sleep(PRELOAD_DELAY_S)
        await asyncio.to_thread(self._session.terminal.preload)
        startup_time.end()

    async def _run_next_line(self) -> None:
        line = await self._prompt.ask(self._session.draft)
        self._session.draft = ""
        if line.strip():
            stops = self._stops
            await self._run_line(line)
            self._stops = self._stops if self._stops > stops else 0
            self._report_autosave_failure()
            self._session.terminal.say("")

    async def _run_line(self, line: str, is_repeated: bool = False) -> None:
        terminal, answer_before = self._session.terminal, self._session.last_answer
        try:
            await self._interrupts.run(self._execute(line))
        except Interrupted:
            self._report_stop(is_answer=self._session.last_answer is not answer_before)
        except UnknownCommand as error:
            self._session.draft = line
            terminal.show_error(error)
        except Unreachable as error:
            self._session.draft = "" if line == FOLLOW else line  # an empty prompt follows by itself
            if is_repeated:
                terminal.show_error(error)
            elif await self._reconnect(error) and self._session.draft:
                await self._offer_again(line)
        except ClientError as error:
            terminal.show_error(error)
        except ValidationError as error:
            terminal.fail(invalid_message(error))
        except (commands.Leave, BrokenPipeError):
            raise
        except Exception as error:
            terminal.fail(f"This is a bug in the client: {error!r}.", _log_traceback())

    def _report_stop(self, is_answer: bool) -> None:
        """Says that Ctrl-C has stopped a line. The second in a row puts back those that wait to be sent."""
        terminal = self._session.terminal
        can_continue = is_answer and self._session.was_cut
        terminal.note("Stopped. /continue extends the answer." if can_continue else "Stopped.")
        if self._stops and terminal.typed_ahead is not None and terminal.typed_ahead.hold():
            terminal.note("What you typed meanwhile is not sent: it is in the prompt.")
        self._stops += 1

    def _report_autosave_failure(self) -> None:
        failure = self._session.autosave.failure()
        if failure is not None:
            hint = "The conversation is not saved automatically. Try /save or /export."
            self._session.terminal.fail(failure.message, hint)

    async def _execute(self, line: str) -> None:
        parsed = commands.parse(line)
        if isinstance(parsed, str):
            await send(self._session, parsed)
        else:
            await parsed.command.call(self._session, parsed.argument)

    async def _reconnect(self, error: Unreachable) -> bool:
        """Finds or starts a server. Returns whether there is one."""
        terminal = self._session.terminal
        try:
            await self._interrupts.run(self._revive(error))
            return True
        except Interrupted:
            terminal.note("Stopped.")
        except ClientError as failure:
            terminal.show_error(failure)
        return False

    async def _offer_again(self, line: str) -> None:
        """Offers the line for sending; sends it if others wait already, to keep the order."""
        terminal = self._session.terminal
        if terminal.typed_ahead is None or not terminal.typed_ahead.text:
            terminal.note("Press Enter to send your line again.")
            return
        terminal.note("Sending your line again, before those that you typed meanwhile.")
        self._session.draft = ""
        await self._run_line(line, is_repeated=True)

    async def _revive(self, error: Unreachable) -> None:
        terminal = self._session.terminal
        await self._connection.revive(error, terminal)
        await self._session.refresh_models()
        await restore_chosen_model(self._session)
        self._connection.health = await self._session.client.health()
        terminal.say(current_model_line(self._connection.health))


def _log_traceback() -> str:
    """Writes the traceback to client.log. Returns a hint with the path of that file."""
    try:
        log = private_file(state_folder() / "client.log")
        with log.open("a") as file:
            file.write(traceback.format_exc())
    except OSError as error:
        return f"The traceback cannot be saved: {error.strerror}."
    return f"The traceback is in {log}"
