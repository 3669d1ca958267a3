"""Completes commands, their arguments, and @files."""

from collections.abc import Iterable

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from app.cli.commands.command import Choice
from app.cli.commands.registry import COMMANDS, find
from app.cli.conversation.session import Session
from app.cli.errors import UnknownCommand


class CommandCompleter(Completer):
    """Completes a command at the start of the line, then its arguments, and files after @ in a message."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        word = document.get_word_before_cursor(WORD=True)
        if word.startswith("@"):
            yield from self._paths.get_completions(Document(word[1:]), complete_event)
        if not text.startswith("/") or "\n" in text:
            return
        name, space, argument = text[1:].partition(" ")
        if not space:
            choices = [(command.name, command.help) for command in COMMANDS]
            yield from _matching(choices, name)
        else:
            yield from self._arguments(name, argument, complete_event)

    def _arguments(self, name: str, argument: str, event: CompleteEvent) -> Iterable[Completion]:
        try:
            command = find(name)
        except UnknownCommand:
            return
        if command.takes_path:
            yield from self._paths.get_completions(Document(argument), event)
        *typed, last = argument.split(" ")
        names = command.choices(self._session, ())
        if typed:  # names may contain spaces
            yield from _matching([choice for choice in names if " " in choice[0]], argument)
        yield from _matching(command.choices(self._session, typed), last)


def _matching(choices: Iterable[Choice], typed: str) -> Iterable[Completion]:
    for text, meaning in choices:
        if text.lower().startswith(typed.lower()):
            yield Completion(text, -len(typed), display_meta=meaning)
