"""Owns the line that the user types into: keys, completion, history and the line below it."""

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.filters import Condition
from prompt_toolkit.formatted_text import AnyFormattedText
from prompt_toolkit.history import FileHistory, History, InMemoryHistory
from prompt_toolkit.input import Input, create_input
from prompt_toolkit.input.typeahead import get_typeahead, store_typeahead
from prompt_toolkit.input.vt100 import Vt100Input
from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent
from prompt_toolkit.keys import Keys
from prompt_toolkit.output import ColorDepth, Output, create_output
from prompt_toolkit.output.vt100 import Vt100_Output
from prompt_toolkit.styles import Style

from app.cli.commands import COMMANDS, UnknownCommand, find
from app.cli.places import private_file
from app.cli.session import Session, count

_STYLE = Style.from_dict({"you": "bold ansicyan", "bottom-toolbar": "noreverse ansibrightblack"})


class Prompt(Protocol):
    async def ask(self, draft: str) -> str:
        """What the user typed, beginning from `draft`.

        Raises:
            EOFError: the user leaves, or the terminal is gone.
        """


class CommandCompleter(Completer):
    """Commands at the beginning of the line, and then what the command offers for its first argument."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        if not text.startswith("/") or "\n" in text:
            return
        name, blank, argument = text[1:].partition(" ")
        if not blank:
            choices = [(command.name, command.help) for command in COMMANDS]
            yield from _matching(choices, name)
        elif " " not in argument:
            yield from _matching(self._choices(name), argument)

    def _choices(self, name: str) -> Iterable[tuple[str, str]]:
        try:
            return find(name).choices(self._session)
        except UnknownCommand:
            return ()


def _matching(choices: Iterable[tuple[str, str]], typed: str) -> Iterable[Completion]:
    for text, meaning in choices:
        if text.lower().startswith(typed.lower()):
            yield Completion(text, -len(typed), display_meta=meaning)


def key_bindings(completer: Completer) -> KeyBindings:
    keys = KeyBindings()

    @keys.add("enter")
    def send(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        if buffer.complete_state is not None and buffer.complete_state.current_completion is not None:
            buffer.complete_state = None  # takes the choice; the next Enter sends
        elif buffer.text.strip():
            buffer.validate_and_handle()

    @keys.add("tab")
    def complete(event: KeyPressEvent) -> None:
        buffer = event.current_buffer
        found = list(completer.get_completions(buffer.document, CompleteEvent(completion_requested=True)))
        if len(found) == 1:
            buffer.apply_completion(found[0])
        elif buffer.complete_state is not None:
            buffer.complete_next()
        else:
            buffer.start_completion(insert_common_part=True)

    @keys.add("escape", "enter")
    @keys.add("c-j")
    def begin_line(event: KeyPressEvent) -> None:
        event.current_buffer.insert_text("\n")

    @keys.add("c-c")
    def clear_line(event: KeyPressEvent) -> None:
        event.current_buffer.reset()

    return keys


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
        self._session = session
        self._keyboard = keyboard or create_input()
        if isinstance(self._keyboard, Vt100Input):
            self._keyboard.vt100_parser.feed(typed)
        plain = session.terminal.look.plain
        completer = CommandCompleter(session)
        self._editor: PromptSession[str] = PromptSession(
            history=history,
            completer=completer,
            complete_while_typing=Condition(self._is_command),
            key_bindings=key_bindings(completer),
            multiline=True,
            prompt_continuation="... ",
            bottom_toolbar=None if plain else self._status,
            style=None if not session.terminal.look.color else _STYLE,
            input=self._keyboard,
            output=screen or _screen(),
        )

    async def ask(self, draft: str) -> str:
        if self._has_keys() and draft:
            self._session.terminal.note("The arrow up brings back your line.")
            draft = ""
        return await self._editor.prompt_async([("class:you", "You: ")], default=draft)

    def _has_keys(self) -> bool:
        """Whether the user typed ahead, which a draft must not be mixed with."""
        keys = [*get_typeahead(self._keyboard), *self._keyboard.read_keys()]
        store_typeahead(self._keyboard, keys)
        return any(key.key is not Keys.CPRResponse for key in keys)

    def _is_command(self) -> bool:
        return self._editor.default_buffer.text.startswith("/")

    def _status(self) -> AnyFormattedText:
        session = self._session
        return " · ".join(filter(None, (session.current_model, _turns(session), _context(session))))


def _turns(session: Session) -> str:
    return count(session.transcript.turns, "turn")


def _context(session: Session) -> str:
    entry = session.models.get(session.current_model or "")
    if entry is None or not session.context_used:
        return ""
    return f"{session.context_used:,}/{entry.context_length:,} tokens"


class LinePrompt:
    """For a place that has lines but no terminal, as a notebook has."""

    async def ask(self, draft: str) -> str:
        line = input("You: ")
        return line or draft
