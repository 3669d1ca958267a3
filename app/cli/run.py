"""Runs the client: completes the options, connects to a server, and chats or answers one message."""

import asyncio
import contextlib
import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import nullcontext
from typing import TYPE_CHECKING, TextIO

from app.cli.conversation.session import Session
from app.cli.errors import ClientError, TranscriptError, UsageError
from app.cli.exit_codes import BROKEN_PIPE, FAILED, INTERRUPTED, OK, TERMINATED, exit_code
from app.cli.input.interrupts import Interrupted, Interrupts
from app.cli.input.keyboard import quiet_keyboard
from app.cli.net.connection import Connection, ServerTarget, connected
from app.cli.oneshot import OneShot, read_message
from app.cli.options import Options
from app.cli.output.model_table import better_models, current_model_line
from app.cli.output.terminal import Terminal, detect_style
from app.cli.paths import sessions_folder, state_folder
from app.cli.preferences import Preferences, load_preferences, read_environment, resolve
from app.cli.transcripts.autosave import Autosave

if TYPE_CHECKING:  # slow to import, and a pipe needs no line editor
    from app.cli.input.prompt import InputPrompt

_WRITE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)  # of a full or lost disk or terminal
SIGNAL_DELAY_S = 0.1  # the longest time until a notebook's Ctrl-C is noticed


def main(options: Options, typed: str = "") -> int:
    """Runs the client and returns its exit code. `typed` is the text that the user has typed so far.

    If an event loop is already running, as in a notebook, the client runs in a thread of its own, and this
    call blocks the loop until the client ends.
    """
    interrupts = Interrupts()
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(options, interrupts, typed, is_notebook=False)
    with quiet_keyboard() if options.is_interactive else nullcontext("") as more:
        is_notebook = not sys.stdin.isatty()
        with interrupts.fired_by_ctrl_c(), ThreadPoolExecutor(1, "client") as pool:
            return _result_of(pool.submit(_run, options, interrupts, typed + more, is_notebook))


def _result_of(run: Future[int]) -> int:
    """Waits in short steps: Python calls the handler of a signal that another thread has received only
    when this thread wakes up."""
    while not wait((run,), SIGNAL_DELAY_S).done:
        pass
    return run.result()


def _replace_unprintable(file: TextIO) -> None:
    """Lets `file` write a question mark for a character that its encoding lacks."""
    if isinstance(file, io.TextIOWrapper):  # a notebook's is not, and takes every character
        file.reconfigure(errors="replace")


def _run(options: Options, interrupts: Interrupts, typed: str, is_notebook: bool) -> int:
    _replace_unprintable(sys.stdout)
    _replace_unprintable(sys.stderr)
    terminal = Terminal(detect_style(sys.stdout, options.plain, options.no_color))
    try:
        environ, preferences = read_environment(), load_preferences()
        options = resolve(options, environ, preferences)
        folds_thoughts = preferences.thinking == "fold"
        terminal = Terminal(detect_style(sys.stdout, options.plain, options.no_color, folds_thoughts))
        message = read_message(options, is_piped=not (sys.stdin.isatty() or is_notebook))
        client = Client(options, environ, preferences, terminal, interrupts)
        return asyncio.run(client.chat(typed, is_notebook) if message is None else client.answer(message))
    except ClientError as error:
        OneShot(terminal, options, interrupts).print_error(error)
        return exit_code(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except asyncio.CancelledError:
        return TERMINATED
    except BrokenPipeError:
        _discard_output()
        return BROKEN_PIPE
    except OSError as error:
        if error.errno not in _WRITE_ERRORS:
            raise
        _discard_output()
        with contextlib.suppress(OSError):  # standard error may be what cannot be written
            terminal.fail(f"The output cannot be written: {error.strerror}.")
        return FAILED


def _discard_output() -> None:
    """Lets standard output go nowhere: Python flushes it when it exits, which would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Client:
    """One run of the client, with complete options."""

    def __init__(
        self,
        options: Options,
        environ: Mapping[str, str],
        preferences: Preferences,
        terminal: Terminal,
        interrupts: Interrupts,
    ) -> None:
        self._options = options
        self._target = ServerTarget(
            environ, options.url, options.api_key, options.model, url_setting=options.url_setting
        )
        self._settings = preferences.settings
        self._terminal = terminal
        self._interrupts = interrupts

    async def chat(self, typed: str, is_notebook: bool) -> int:
        """Chats until the user leaves. Returns the exit code."""
        from app.cli.chat import Chat

        _stop_on_signals()
        terminal = self._terminal
        try:
            async with connected(self._target, terminal, self._interrupts) as connection:
                with contextlib.closing(Autosave(sessions_folder())) as autosave:
                    session = self._session(connection, terminal, autosave)
                    await self._welcome(session, connection)
                    prompt = _make_prompt(session, typed, is_notebook)
                    await Chat(session, connection, prompt, self._interrupts).run()
                terminal.say("Goodbye!", symbol="👋")
                return OK
        except Interrupted:
            return INTERRUPTED
        except ClientError as error:
            terminal.show_error(error)
            return exit_code(error)

    async def answer(self, message: str) -> int:
        """Sends one message and prints the answer to standard output. Returns the exit code."""
        _stop_on_signals()
        one_shot = OneShot(self._terminal, self._options, self._interrupts)
        try:
            async with connected(self._target, one_shot.terminal, self._interrupts) as connection:
                folder = None if self._options.resume is None else sessions_folder()
                with contextlib.closing(Autosave(folder)) as autosave:
                    await one_shot.answer(self._session(connection, one_shot.terminal, autosave), message)
                return OK
        except Interrupted:
            one_shot.print_interrupted()
            return INTERRUPTED
        except ClientError as error:
            one_shot.print_error(error)
            return exit_code(error)

    def _session(self, connection: Connection, terminal: Terminal, autosave: Autosave) -> Session:
        return Session(connection.client, terminal, self._options.system or "", autosave, self._settings)

    async def _welcome(self, session: Session, connection: Connection) -> None:
        from app.cli.commands import model, saving

        session.terminal.say("Welcome to LLM Chat Interface!", "bold")
        await session.refresh_models()
        if self._options.model not in (None, session.current_model):
            await self._interrupts.run(model.switch(session, self._options.model))
            connection.health = await session.client.health()
        session.terminal.say(current_model_line(connection.health))
        if connection.health.note:
            session.terminal.note(connection.health.note)
        current = connection.health.model
        model_id = None if current is None else current.model_id
        if suggestion := better_models(model_id, session.models, session.is_hub_reachable):
            session.terminal.note(suggestion)
        session.terminal.note("Type a message, or /help for the commands.")
        if self._options.resume is not None:
            try:
                await self._interrupts.run(saving.resume(session, self._options.resume))
            except Interrupted:
                session.terminal.note("Stopped.")
            except (TranscriptError, UsageError) as error:  # start a new conversation instead
                session.terminal.show_error(error)


def _stop_on_signals() -> None:
    """Makes SIGTERM, and SIGHUP from a closed terminal, cancel the task, so that the client's own server is
    stopped as well."""
    task = asyncio.current_task()
    if task is not None and threading.current_thread() is threading.main_thread():
        for number in (signal.SIGTERM, signal.SIGHUP):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)


def _make_prompt(session: Session, typed: str, is_notebook: bool) -> "InputPrompt":
    from app.cli.input.prompt import LinePrompt, TerminalPrompt, open_history

    if is_notebook:
        return LinePrompt()
    return TerminalPrompt(session, open_history(state_folder() / "history"), typed)
