"""Owns the line that the user types into: its history, what is typed ahead of it, and the line below it."""

import os
import sys
from pathlib import Path
from typing import Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.auto_suggest import AutoSuggestFromHistory
from prompt_toolkit.filters import Condition
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input, create_input
from prompt_toolkit.input.vt100 import Vt100Input
from prompt_toolkit.output import ColorDepth, Output, create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style

from app.cli.conversation.session import Session
from app.cli.input.completion import CommandCompleter
from app.cli.input.keys import key_bindings, know_shift_enter, unquoted
from app.cli.input.typed_ahead import TypedAhead
from app.cli.output.formatting import count, gauge
from app.cli.paths import private_file

_STYLE = Style.from_dict({"you": "bold ansicyan", "bottom-toolbar": "noreverse ansibrightblack"})


class Prompt(Protocol):
    async def ask(self, draft: str) -> str:
        """What the user typed, beginning from `draft`.

        Raises:
            EOFError: the user leaves, or the terminal is gone.
        """


class _LenientHistory(FileHistory):
    """A history that cannot be written ends no session."""

    def store_string(self, string: str) -> None:
        try:
            super().store_string(string)
        except OSError:
            return


def open_history(path: Path) -> History:
    try:
        return _LenientHistory(str(private_file(path)))
    except OSError:
        return InMemoryHistory()


class _Screen(Vt100_Output):
    """Goes on marking pastes between prompts: lines that are pasted then must not be taken for typed ones."""

    def disable_bracketed_paste(self) -> None:
        pass


def _screen() -> Output:
    terminal = next((file for file in (sys.stdout, sys.stderr) if file.isatty()), None)
    if terminal is None:
        return create_output()
    return _Screen.from_pty(terminal, os.environ.get("TERM"), ColorDepth.from_env())


class TerminalPrompt:
    """A line editor. Enter sends, and a paste of many lines does not."""

    def __init__(
        self,
        session: Session,
        history: History,
        typed: str = "",
        keyboard: Input | None = None,
        screen: Output | None = None,
    ) -> None:
        """`typed` is what the user typed before there was an editor."""
        know_shift_enter()
        self._session = session
        self._keyboard = keyboard or create_input()
        if isinstance(self._keyboard, Vt100Input):
            self._keyboard.vt100_parser.feed(typed)
        self._typed_ahead = session.terminal.typed_ahead = TypedAhead(self._keyboard)
        self._editor = self._make_editor(history, screen or _screen())

    def _make_editor(self, history: History, screen: Output) -> PromptSession[str]:
        session, look = self._session, self._session.terminal.style
        return PromptSession(
            history=history,
            auto_suggest=None if look.plain else AutoSuggestFromHistory(),
            completer=CommandCompleter(session),
            complete_while_typing=Condition(self._is_completed),
            key_bindings=key_bindings(),
            multiline=True,
            enable_open_in_editor=True,
            enable_suspend=True,
            tempfile_suffix=".md",
            prompt_continuation=continuation,
            bottom_toolbar=None if look.plain else lambda: status_line(session),
            style=_STYLE if look.color else None,
            input=self._keyboard,
            output=screen,
        )

    async def ask(self, draft: str) -> str:
        if self._typed_ahead.end() and draft:
            self._session.terminal.note("The arrow up brings back your line.")
            draft = ""
        # Ctrl-C is a key of the editor; before and after it, the client's own handler has the signal.
        text = await self._editor.prompt_async([("class:you", "You: ")], default=draft, handle_sigint=False)
        self._typed_ahead.begin()
        return unquoted(text)

    def _is_completed(self) -> bool:
        """Whether choices are offered unasked: for commands and @files, not amid a message."""
        document = self._editor.default_buffer.document
        return document.text.startswith("/") or document.get_word_before_cursor(WORD=True).startswith("@")

    @property
    def text(self) -> str:
        """What stands in the line now."""
        return self._editor.default_buffer.text


def continuation(width: int, line: int, wraps: int) -> str:
    """What stands before each row but the first: dots where a line begins, nothing where one is broken."""
    return "" if wraps else "... "


def status_line(session: Session) -> str:
    """What stands below the line."""
    parts = (session.current_model, _context(session), _conversation(session), _attached(session))
    return " · ".join(filter(None, parts))


def _context(session: Session) -> str:
    entry = session.models.get(session.current_model or "")
    if entry is None or not session.context_used:
        return ""
    share = session.context_used / entry.context_length
    return f"{gauge(share)} {session.context_used:,}/{entry.context_length:,} tokens"


def _conversation(session: Session) -> str:
    transcript = session.transcript
    name = transcript.title or session.saved_as
    return " · ".join(filter(None, (count(transcript.turns, "turn"), name)))


def _attached(session: Session) -> str:
    return f"{count(len(session.attached), 'file')} attached" if session.attached else ""


class LinePrompt:
    """For a place that has lines but no terminal, as a notebook has."""

    async def ask(self, draft: str) -> str:
        line = input("You: ")
        return line or draft
