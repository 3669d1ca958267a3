"""The prompt that reads the user's messages: a line editor in a terminal, plain lines elsewhere."""

import asyncio
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
from prompt_toolkit.key_binding import KeyPressEvent
from prompt_toolkit.output import ColorDepth, Output, create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style
from rich.cells import cell_len

from app.cli.commands.conversation import FOLLOW
from app.cli.conversation.server.running_turns import ConversationWatch
from app.cli.conversation.session import Session
from app.cli.input.completion import CommandCompleter
from app.cli.input.keys import key_bindings, readable, register_shift_enter, unquoted
from app.cli.input.suspension import Suspension
from app.cli.input.typed_ahead import TypedAhead
from app.cli.output.formatting import count, gauge
from app.cli.paths import private_file

POLL_S = 2.0  # between two polls for what other clients ask; these count against no API key's limit

_STYLE = Style.from_dict({"you": "bold ansicyan", "bottom-toolbar": "noreverse ansibrightblack"})


class InputPrompt(Protocol):
    async def ask(self, draft: str) -> str:
        """Returns the next message or command. `draft` is offered for editing.

        Raises:
            EOFError: the user quits, or the terminal was closed.
        """


class _LenientHistory(FileHistory):
    """A history that ignores write errors."""

    def store_string(self, string: str) -> None:
        try:
            super().store_string(string)
        except OSError:
            return


def open_history(path: Path) -> History:
    """Returns the history in this file; if it cannot be opened, an empty one in memory."""
    try:
        return _LenientHistory(str(private_file(path)))
    except OSError:
        return InMemoryHistory()


class _TerminalOutput(Vt100_Output):
    """Keeps bracketed paste on between prompts, so that lines pasted then are not mistaken for typed ones."""

    def disable_bracketed_paste(self) -> None:
        pass


def _make_output() -> Output:
    terminal = next((file for file in (sys.stdout, sys.stderr) if file.isatty()), None)
    if terminal is None:
        return create_output()
    return _TerminalOutput.from_pty(terminal, os.environ.get("TERM"), ColorDepth.from_env())


class TerminalPrompt:
    """A line editor with history and completion. Enter sends; pasted lines do not."""

    def __init__(
        self,
        session: Session,
        history: History,
        typed: str = "",
        keyboard: Input | None = None,
        screen: Output | None = None,
        poll_s: float = POLL_S,
    ) -> None:
        """`typed` is the text that the user typed before the editor existed.

        Every `poll_s`, an empty prompt looks for what other clients ask.
        """
        register_shift_enter()
        self._session = session
        self._poll_s = poll_s
        self._keyboard = keyboard or create_input()
        if isinstance(self._keyboard, Vt100Input):
            self._keyboard.vt100_parser.feed(typed)
        self._typed_ahead = session.terminal.typed_ahead = TypedAhead(self._keyboard)
        self._watch = ConversationWatch(session.client)
        self._suspension = Suspension()
        self._editing: asyncio.Task[None] | None = None  # the user's editor, which may be open
        self._editor = self._make_editor(history, screen or _make_output())

    def _make_editor(self, history: History, screen: Output) -> PromptSession[str]:
        session, style = self._session, self._session.terminal.style
        return PromptSession(
            history=history,
            auto_suggest=None if style.plain else AutoSuggestFromHistory(),
            completer=CommandCompleter(session),
            complete_while_typing=Condition(self._completes_unasked),
            key_bindings=key_bindings(
                self._has_version, session.terminal.note, self._edit, self._suspension.suspend
            ),
            multiline=True,
            enable_open_in_editor=True,
            tempfile_suffix=".md",
            prompt_continuation=continuation,
            bottom_toolbar=None if style.plain else lambda: status_line(session),
            style=_STYLE if style.color else None,
            input=self._keyboard,
            output=screen,
        )

    def _has_version(self, step: int) -> bool:
        return self._session.transcript.tree.version_beside(step) is not None

    def _edit(self, event: KeyPressEvent) -> None:
        """Opens the text in the user's editor. Unlike in a shell, closing it does not send the text."""
        self._editing = event.current_buffer.open_in_editor()

    async def ask(self, draft: str) -> str:
        has_typed_ahead = self._typed_ahead.end()
        if draft and (has_typed_ahead or self._would_hide_the_error(draft)):
            self._session.terminal.note("Press the up arrow to get your line back.")
            draft = ""
        self._editor.app.erase_when_done = False
        # In the editor Ctrl-C is a key. Before and after, the client's own handler receives the signal.
        with self._suspension.awaited(self._editor.app):
            text = await self._editor.prompt_async(
                [("class:you", "You: ")], default=draft, handle_sigint=False, pre_run=self._begin_watching
            )
        self._typed_ahead.begin()
        if not self._editor.app.erase_when_done:
            self._session.terminal.end_answer()
        elif text == FOLLOW and self._watch.announce():
            self._session.terminal.note("The answer of the other client can be read again.")
        return unquoted(readable(text))

    def _begin_watching(self) -> None:
        self._watch.begin(self._session.transcript)
        if self._session.transcript.conversation_id is not None:
            self._editor.app.create_background_task(self._look_for_news())

    async def _look_for_news(self) -> None:
        """Shows what another client asks, as soon as it does, unless the user is typing."""
        while True:
            await asyncio.sleep(self._poll_s)
            if self._is_untouched() and await self._watch.has_news() and self._is_untouched():
                break
        self._editor.app.erase_when_done = True
        self._editor.app.exit(result=FOLLOW)

    def _is_untouched(self) -> bool:
        app, is_editing = self._editor.app, self._editing is not None and not self._editing.done()
        return not (self._editor.default_buffer.text or app.layout.is_searching or is_editing or app.is_done)

    def _would_hide_the_error(self, draft: str) -> bool:
        """Returns whether the draft fills more than half of the screen, which shows why it was not sent."""
        console = self._session.terminal.console
        rows = sum(1 + cell_len(line) // console.width for line in draft.splitlines())
        return rows > console.height // 2

    def _completes_unasked(self) -> bool:
        """Returns whether completions appear while typing: for commands and @files, not within a message."""
        document = self._editor.default_buffer.document
        return document.text.startswith("/") or document.get_word_before_cursor(WORD=True).startswith("@")


def continuation(width: int, line: int, wraps: int) -> str:
    """Returns the text before each row after the first: dots before a new line, none before a wrapped one."""
    return "" if wraps else "... "


def status_line(session: Session) -> str:
    """Returns the status line below the prompt, without the last parts if the terminal is too narrow."""
    parts = (session.current_model, _context(session), _turns(session), _name(session), _attachments(session))
    line = ""
    for part in filter(None, parts):
        longer = f"{line} · {part}" if line else part
        if cell_len(longer) > session.terminal.console.width:
            break
        line = longer
    return line


def _context(session: Session) -> str:
    model = session.models.get(session.current_model or "")
    if model is None or not session.context_tokens:
        return ""
    share = session.context_tokens / model.context_length
    return f"{gauge(share)} {session.context_tokens:,}/{model.context_length:,} tokens"


def _turns(session: Session) -> str:
    return count(session.transcript.turns, "turn")


def _name(session: Session) -> str | None:
    return session.transcript.title or session.saved_as


def _attachments(session: Session) -> str:
    return f"{count(len(session.attached), 'file')} attached" if session.attached else ""


class LinePrompt:
    """A prompt without a terminal, for notebooks."""

    async def ask(self, draft: str) -> str:
        line = input("You: ")
        return line or draft
