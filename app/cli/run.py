"""Owns the run of the client from its options to its exit code."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from app.cli.conversation.autosave import Autosave
from app.cli.conversation.session import Session
from app.cli.errors import (
    BadAddress,
    ClientError,
    NotOurServer,
    Refused,
    TranscriptError,
    Unreachable,
    UsageError,
)
from app.cli.input.interrupts import Interrupted, Interrupts
from app.cli.input.keyboard import quiet_keyboard
from app.cli.net.connection import Connection, ServerTarget, connected
from app.cli.net.server import ServerDied
from app.cli.oneshot import InputError, OneShot, read_message
from app.cli.options import Options
from app.cli.output.model_table import current_model_line
from app.cli.output.terminal import Terminal, detect_style
from app.cli.paths import sessions_folder, state_folder
from app.cli.preferences import ConfigError, Preferences, decided, load_preferences

if TYPE_CHECKING:  # slow to import, and a pipe needs no line editor
    from app.cli.input.prompt import Prompt

OK, FAILED, USAGE, UNREACHABLE, REFUSED, UNKNOWN_MODEL, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
ENDED = 128 + signal.SIGTERM
BROKEN_PIPE = 128 + signal.SIGPIPE
_USED_WRONGLY = (BadAddress, InputError, ConfigError, TranscriptError, UsageError)


def main(options: Options, typed: str = "") -> int:
    """Runs the client and returns its exit code. Inside a running event loop, which waits for it, it takes
    a thread of its own. `typed` is what the user typed before."""
    interrupts = Interrupts()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(options, interrupts, typed, is_notebook=False)
    with quiet_keyboard() if options.asks else nullcontext("") as waiting, interrupts.fired_by_ctrl_c():
        return _run_in_thread(options, interrupts, typed + waiting)


def _run_in_thread(options: Options, interrupts: Interrupts, typed: str) -> int:
    codes: list[int] = []
    is_notebook = not sys.stdin.isatty()
    thread = threading.Thread(target=lambda: codes.append(_run(options, interrupts, typed, is_notebook)))
    thread.start()
    thread.join()
    return codes[0] if codes else FAILED


def _run(options: Options, interrupts: Interrupts, typed: str, is_notebook: bool) -> int:
    terminal = Terminal(detect_style(sys.stdout, options.plain, options.no_color))
    try:
        environ, preferences = _environment(), load_preferences()
        options = decided(options, environ, preferences)
        look = detect_style(sys.stdout, options.plain, options.no_color, preferences.thinking == "fold")
        terminal = Terminal(look)
        message = read_message(options, is_piped=not (sys.stdin.isatty() or is_notebook))
        ask_with = _line_prompt if is_notebook else partial(_terminal_prompt, typed)
        client = Client(options, environ, preferences, interrupts)
        running = client.chat(terminal, ask_with) if message is None else client.answer(terminal, message)
        return asyncio.run(running)
    except ClientError as error:
        OneShot(terminal, options, interrupts).failed(error)
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except asyncio.CancelledError:
        return ENDED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return BROKEN_PIPE


class Client:
    """What the user asked of this run, once it is decided."""

    def __init__(
        self, options: Options, environ: Mapping[str, str], preferences: Preferences, interrupts: Interrupts
    ) -> None:
        self._options = options
        self._target = ServerTarget(environ, options.url, options.api_key, options.model)
        self._settings = preferences.settings
        self._interrupts = interrupts

    async def chat(self, terminal: Terminal, ask_with: "Callable[[Session], Prompt]") -> int:
        """A conversation, until the user leaves."""
        from app.cli.chat import Chat

        _end_with_the_terminal()
        try:
            async with connected(self._target, terminal, self._interrupts) as connection:
                with contextlib.closing(Autosave(sessions_folder())) as autosave:
                    session = self._session(connection, terminal, autosave)
                    await self._welcome(session, connection)
                    await Chat(session, connection, ask_with(session), self._interrupts).run()
                terminal.say("Goodbye!", symbol="👋")
                return OK
        except Interrupted:
            return INTERRUPTED
        except ClientError as error:
            terminal.problem(error)
            return exit_code(error)

    async def answer(self, terminal: Terminal, message: str) -> int:
        """One message, whose answer is all of standard output."""
        _end_with_the_terminal()
        shot = OneShot(terminal, self._options, self._interrupts)
        try:
            async with connected(self._target, shot.terminal, self._interrupts) as connection:
                folder = None if self._options.resume is None else sessions_folder()
                with contextlib.closing(Autosave(folder)) as autosave:
                    await shot.answer(self._session(connection, shot.terminal, autosave), message)
                return OK
        except Interrupted:
            shot.interrupted()
            return INTERRUPTED
        except ClientError as error:
            shot.failed(error)
            return exit_code(error)

    def _session(self, connection: Connection, terminal: Terminal, autosave: Autosave) -> Session:
        return Session(connection.client, terminal, self._options.system or "", autosave, self._settings)

    async def _welcome(self, session: Session, connection: Connection) -> None:
        from app.cli.commands import conversation as conversation_commands, model as model_commands

        session.terminal.say("Welcome to LLM Chat Interface!", "bold")
        await session.refresh_models()
        if self._options.model not in (None, session.current_model):
            await self._interrupts.run(model_commands.switch(session, self._options.model))
            connection.health = await session.client.health()
        session.terminal.say(current_model_line(connection.health))
        if connection.health.note:
            session.terminal.note(connection.health.note)
        session.terminal.note("Type a message, or /help for the commands.")
        if self._options.resume is not None:
            try:
                await conversation_commands.resume(session, self._options.resume)
            except (TranscriptError, UsageError) as error:  # a conversation can be begun all the same
                session.terminal.problem(error)


def _environment() -> Mapping[str, str]:
    """The environment, and below it what `.env` says to the server too."""
    if not os.path.exists(".env"):
        return os.environ
    from dotenv import dotenv_values  # only where there is such a file

    try:
        settings = {name: value for name, value in dotenv_values(".env").items() if value is not None}
    except UnicodeDecodeError:
        raise InputError(".env is not UTF-8 text.", "Write it anew, or remove it.") from None
    return settings | os.environ


def _end_with_the_terminal() -> None:
    """SIGTERM, and SIGHUP of a terminal that closes, end the client in order: its server must end with it."""
    task = asyncio.current_task()
    if task is not None and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _line_prompt(session: Session) -> "Prompt":
    from app.cli.input.prompt import LinePrompt

    return LinePrompt()


def _terminal_prompt(typed: str, session: Session) -> "Prompt":
    from app.cli.input.prompt import TerminalPrompt, open_history

    return TerminalPrompt(session, open_history(state_folder() / "history"), typed)


def exit_code(error: ClientError) -> int:
    if isinstance(error, _USED_WRONGLY):
        return USAGE
    if isinstance(error, ServerDied) and "LLM_MODEL_NAME" in error.message:
        return UNKNOWN_MODEL
    if isinstance(error, (Unreachable, NotOurServer, ServerDied)):
        return UNREACHABLE
    if not isinstance(error, Refused):
        return FAILED
    if error.code == "model_not_found":
        return UNKNOWN_MODEL
    return REFUSED if error.status in (401, 403) else FAILED
