"""Owns the commands: name, arguments, help and completion in one place, and what a typed line means."""

import difflib
import re
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass

from rich.table import Table

from app.cli import handlers
from app.cli.client import ClientError
from app.cli.session import Session
from app.cli.settings import KEYS, range_of
from app.cli.transcripts import saved_names

Choice = tuple[str, str]  # what is inserted, and what it means
_LINE = re.compile(r"/(?:([A-Za-z]\w*)(?:\s+(.*))?)?", re.DOTALL)


class UnknownCommand(ClientError):
    pass


def _no_choices(session: Session) -> Iterable[Choice]:
    return ()


def _models(session: Session) -> Iterable[Choice]:
    return [(name, entry.description) for name, entry in session.models.items()]


def _saved(session: Session) -> Iterable[Choice]:
    return [(name, "") for name in saved_names()]


def _settings(session: Session) -> Iterable[Choice]:
    return [(key, range_of(key)) for key in KEYS]


def _commands(session: Session) -> Iterable[Choice]:
    return [(command.name, command.help) for command in COMMANDS]


@dataclass(frozen=True, slots=True)
class Command:
    name: str
    arguments: str
    help: str
    run: Callable[[Session, str], Awaitable[None]]
    choices: Callable[[Session], Iterable[Choice]] = _no_choices  # for its first argument

    @property
    def usage(self) -> str:
        return f"/{self.name} {self.arguments}".rstrip()


@dataclass(frozen=True, slots=True)
class Call:
    """A command with what was typed after it."""

    command: Command
    argument: str


def parse(line: str) -> Call | str:
    """What a line means: a command, or a message. `/usr/bin` is a message, and so is what follows `//`.

    Raises:
        UnknownCommand: with the nearest names.
    """
    if line.startswith("//"):
        return line[1:]
    match = _LINE.fullmatch(line.strip()) if line.startswith("/") else None
    if match is None:
        return line
    return Call(find(match[1] or "help"), (match[2] or "").strip())


def find(name: str) -> Command:
    """The command of this name, or the only one that begins so.

    Raises:
        UnknownCommand: with the nearest names.
    """
    name = name.removeprefix("/").lower()
    found = [command for command in COMMANDS if command.name.startswith(name)]
    exact = [command for command in found if command.name == name]
    if exact or len(found) == 1:
        return (exact or found)[0]
    near = [c.name for c in found] or difflib.get_close_matches(name, [c.name for c in COMMANDS], cutoff=0.5)
    hint = f"Did you mean {' or '.join(f'/{n}' for n in near)}?" if near else "/help lists the commands."
    told = "can mean several commands" if found else "is no command"
    raise UnknownCommand(f"/{name} {told}.", f"{hint} A message that begins with / is sent with //.")


async def show_help(session: Session, argument: str) -> None:
    if argument:
        command = find(argument.split()[0])
        session.terminal.say(command.usage, "bold")
        session.terminal.say(f"  {command.help}")
        return
    table = Table.grid(padding=(0, 2))
    for command in COMMANDS:
        table.add_row(command.usage, command.help)
    session.terminal.show(table)
    session.terminal.note("Enter sends, Alt-Enter or Ctrl-J begins a line, Tab completes.")
    session.terminal.note("Ctrl-C stops an answer and keeps it, Ctrl-D leaves. Commands may be shortened.")


COMMANDS = (
    Command("models", "", "list the models", handlers.list_models),
    Command("switch", "NAME", "go on with another model", handlers.switch, _models),
    Command("new", "[TITLE]", "begin a new conversation", handlers.new),
    Command("save", "NAME", "save the conversation to conversations/NAME.json", handlers.save, _saved),
    Command("load", "NAME", "go on with a saved conversation", handlers.load, _saved),
    Command("history", "", "show the conversation", handlers.history),
    Command("system", "[TEXT|clear]", "show or set what the model is told first", handlers.system),
    Command("set", "[KEY [VALUE|default]]", "show or set how replies are drawn", handlers.set_, _settings),
    Command("retry", "", "have the last message answered again", handlers.retry),
    Command("continue", "", "extend the last answer", handlers.continue_),
    Command("undo", "[N]", "drop the last turn, or the last N", handlers.undo),
    Command("clear", "", "clear the screen; the conversation stays", handlers.clear),
    Command("help", "[COMMAND]", "show the commands", show_help, _commands),
    Command("quit", "", "leave", handlers.leave),
)
