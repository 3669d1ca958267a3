"""Owns the run of the client from its options to its exit code."""

import asyncio
import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from functools import partial

from pydantic import ValidationError

from app.cli import commands, handlers
from app.cli.client import BadAddress, ClientError, Refused, Unreachable
from app.cli.connection import Connection, Wanted, connected
from app.cli.interrupts import Interrupted, Interrupts
from app.cli.model_table import current_model_line
from app.cli.options import Options
from app.cli.places import private_file, state_folder
from app.cli.prompt import LinePrompt, Prompt, TerminalPrompt, open_history
from app.cli.server import ServerDied
from app.cli.session import Session
from app.cli.terminal import Terminal, look_of
from app.cli.transcripts import TranscriptError
from app.models.schemas import ChatRequest

OK, FAILED, USAGE, UNREACHABLE, REFUSED, UNKNOWN_MODEL, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
ENDED = 128 + signal.SIGTERM
BROKEN_PIPE = 128 + signal.SIGPIPE


class Unusable(ClientError):
    """What was piped in is no message."""


def main(options: Options, typed: str = "") -> int:
    """Runs the client and returns its exit code. Inside a running event loop it takes a thread of its own.
    `typed` is what the user typed before."""
    interrupts = Interrupts()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(options, interrupts, typed, is_notebook=False)
    return _run_in_thread(options, interrupts, typed)


def _run_in_thread(options: Options, interrupts: Interrupts, typed: str) -> int:
    codes: list[int] = []
    is_notebook = not sys.stdin.isatty()
    thread = threading.Thread(target=lambda: codes.append(_run(options, interrupts, typed, is_notebook)))
    thread.start()
    while thread.is_alive():
        try:
            thread.join()
        except KeyboardInterrupt:
            interrupts.fire_from_outside()
    return codes[0] if codes else FAILED


def _run(options: Options, interrupts: Interrupts, typed: str, is_notebook: bool) -> int:
    terminal = Terminal(look_of(sys.stdout, options.plain, options.no_color))
    try:
        piped = None if sys.stdin.isatty() or is_notebook else _standard_input(options)
        ask_with = _line_prompt if is_notebook else partial(_terminal_prompt, typed)
        return asyncio.run(_chat(options, terminal, interrupts, ask_with, piped))
    except Unusable as error:
        terminal.problem(error)
        return USAGE
    except KeyboardInterrupt:
        return INTERRUPTED
    except asyncio.CancelledError:
        return ENDED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return BROKEN_PIPE


def _standard_input(options: Options) -> str:
    """All of it, which is one message. It is read before there is a server: a bad one starts none.

    Raises:
        Unusable: it is no message.
    """
    try:
        text = sys.stdin.buffer.read().decode()
        ChatRequest(message=text, system_prompt=options.system)
    except UnicodeDecodeError:
        raise Unusable("Standard input is not UTF-8 text.") from None
    except ValidationError as error:
        if not text.strip():
            hint = "Pipe a message in, or run this in a terminal."
            raise Unusable("Standard input is empty.", hint) from None
        raise Unusable(_why_unsent(error)) from None
    return text


async def _chat(
    options: Options,
    terminal: Terminal,
    interrupts: Interrupts,
    ask_with: Callable[[Session], Prompt],
    piped: str | None,
) -> int:
    _end_with_the_terminal()
    environ = _environment()
    api_key = options.api_key or environ.get("LLM_API_KEY") or None
    wanted = Wanted(environ, options.url, api_key, options.model)
    try:
        async with connected(wanted, terminal, interrupts) as connection:
            session = Session(connection.client, terminal, options.system)
            if piped is not None:
                return await _answer_piped(session, piped, options, interrupts)
            await _welcome(session, connection, options, interrupts)
            await Chat(session, connection, ask_with(session), interrupts).run()
            terminal.say("Goodbye!", symbol="👋")
            return OK
    except Interrupted:
        return INTERRUPTED
    except ClientError as error:
        terminal.problem(error)
        return _exit_code(error)


def _environment() -> Mapping[str, str]:
    """The environment, and below it what `.env` says to the server too."""
    if not os.path.exists(".env"):
        return os.environ
    from dotenv import dotenv_values  # only where there is such a file

    settings = {name: value for name, value in dotenv_values(".env").items() if value is not None}
    return settings | os.environ


def _end_with_the_terminal() -> None:
    """SIGTERM, and SIGHUP of a terminal that closes, end the client in order: its server must end with it."""
    task = asyncio.current_task()
    if task is not None and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _line_prompt(session: Session) -> Prompt:
    return LinePrompt()


def _terminal_prompt(typed: str, session: Session) -> Prompt:
    return TerminalPrompt(session, open_history(state_folder() / "history"), typed)


async def _welcome(
    session: Session, connection: Connection, options: Options, interrupts: Interrupts
) -> None:
    session.terminal.say("Welcome to LLM Chat Interface!", "bold")
    await session.refresh_models()
    if options.model not in (None, session.current_model):
        await interrupts.run(handlers.switch(session, options.model))
        connection.health = await session.client.health()
    session.terminal.say(current_model_line(connection.health))
    if connection.health.note:
        session.terminal.note(connection.health.note)
    session.terminal.note("Type a message, or /help for the commands.")


async def _answer_piped(session: Session, text: str, options: Options, interrupts: Interrupts) -> int:
    """Its answer is all of standard output."""
    if options.model is not None:
        await interrupts.run(session.switch(options.model))
    await interrupts.run(session.send(text))
    return OK


def _why_unsent(error: ValidationError) -> str:
    problem = error.errors()[0]
    what = "system prompt" if "system_prompt" in problem["loc"] else "message"
    return f"The {what} cannot be sent: {problem['msg'].removeprefix('Value error, ')}."


def _exit_code(error: ClientError) -> int:
    if isinstance(error, BadAddress):
        return USAGE
    if isinstance(error, ServerDied) and "LLM_MODEL_NAME" in error.message:
        return UNKNOWN_MODEL
    if not isinstance(error, Refused):
        return UNREACHABLE
    if error.code == "model_not_found":
        return UNKNOWN_MODEL
    return REFUSED if error.status in (401, 403) else FAILED


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
        with contextlib.suppress(EOFError, handlers.Leave):
            while True:
                line = await self._prompt.ask(self._session.draft)
                self._session.draft = ""
                if line.strip():
                    await self._do(line)
                    self._session.terminal.say("")

    async def _do(self, line: str) -> None:
        terminal = self._session.terminal
        try:
            await self._interrupts.run(self._act(line))
        except Interrupted:
            terminal.note("Stopped." if not self._session.was_cut else "Stopped: /continue goes on.")
        except commands.UnknownCommand as error:
            self._session.draft = line
            terminal.problem(error)
        except Unreachable as error:
            self._session.draft = line
            await self._revive(error)
        except (ClientError, TranscriptError) as error:
            terminal.problem(error)
        except ValidationError as error:
            terminal.fail(_why_unsent(error))
        except (handlers.Leave, OSError):
            raise
        except Exception as error:
            terminal.fail(f"This is a fault of the client: {error!r}.", f"Told in full in {_log_fault()}")

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
        await handlers.choose_again(self._session)
        self._connection.health = await self._session.client.health()
        terminal.say(current_model_line(self._connection.health))
        terminal.note("Enter sends your line again.")


def _log_fault() -> str:
    log = private_file(state_folder() / "client.log")
    with log.open("a") as file:
        file.write(traceback.format_exc())
    return str(log)
