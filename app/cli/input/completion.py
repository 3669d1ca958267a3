"""Completes commands, their arguments, and @files."""

import re
from collections.abc import Iterable

from prompt_toolkit.completion import CompleteEvent, Completer, Completion, PathCompleter
from prompt_toolkit.document import Document

from app.cli.commands.command import Choice
from app.cli.commands.registry import COMMANDS, find
from app.cli.conversation.session import Session
from app.cli.errors import UnknownCommand
from app.cli.paths import expanded

_OPEN_MENTION = re.compile(r'(?<!\S)@(?:"(?P<quoted>[^"\n]*)|(?P<bare>[^\s"]*))\Z')


class CommandCompleter(Completer):
    """Completes a command at the start of the line, then its arguments, and files after @ in a message."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._paths = PathCompleter(expanduser=True)

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        text = document.text_before_cursor
        yield from self._mentioned_files(text, complete_event)
        if not text.startswith("/") or "\n" in text:
            return
        name, space, argument = text[1:].partition(" ")
        if not space:
            choices = [(command.name, command.help) for command in COMMANDS]
            yield from _matching(choices, name)
        else:
            yield from self._arguments(name, argument, complete_event)

    def _mentioned_files(self, text: str, event: CompleteEvent) -> Iterable[Completion]:
        """Completes the path after @. One with a space gets the quotes that it needs."""
        mention = _OPEN_MENTION.search(text)
        if mention is None:
            return
        typed = mention["quoted"] or mention["bare"] or ""
        for found in self._paths.get_completions(Document(typed), event):
            path = typed + found.text
            if mention["quoted"] is None and " " not in path:
                yield found
            else:
                end = "" if expanded(path).is_dir() else '"'
                yield Completion(f'@"{path}{end}', -len(mention[0]), display=found.display)

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
