"""Owns the list of commands, and what a typed line means."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.cli.commands import conversation, import_export, model, turn
from app.cli.commands.command import Choice, Command, Leave
from app.cli.conversation.session import Session
from app.cli.errors import UnknownCommand

__all__ = ["COMMANDS", "Call", "Command", "Leave", "find", "parse", "show_help"]

_LINE = re.compile(r"/(?:([A-Za-z]\w*)(?:\s+(.*))?)?", re.DOTALL)
_KEYS = (
    ("Enter", "send the message"),
    ("Alt-Enter, Shift-Enter, Ctrl-J, \\ at the end", "begin a new line"),
    ('"""', "begin and end a text of many lines"),
    ("Tab", "complete commands, names and @files"),
    ("right arrow", "take the suggestion"),
    ("Ctrl-R", "search what was typed before"),
    ("Ctrl-X Ctrl-E", "write in $EDITOR"),
    ("Ctrl-C", "stop an answer and keep it; clear the line"),
    ("Ctrl-L, Ctrl-D", "redraw, leave"),
)


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
    from rich.table import Column, Table  # slow to import, and not needed for the first prompt

    terminal = session.terminal
    if argument:
        command = find(argument.split()[0])
        terminal.say(command.usage, "bold")
        terminal.say(f"  {command.help}")
        for line in command.more.splitlines():
            terminal.note(f"  {line}")
        return
    commands, keys = (
        Table.grid(Column(overflow="fold"), Column(overflow="fold"), padding=(0, 2)) for _ in range(2)
    )
    for command in COMMANDS:
        commands.add_row(command.usage, command.help)
    for key, meaning in _KEYS:
        keys.add_row(key, meaning, style="dim")
    terminal.show(commands)
    terminal.say("")
    terminal.show(keys)
    terminal.note("Commands may be shortened; /help COMMAND tells more; @file in a message attaches it.")


def _named(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    return [(command.name, command.help) for command in COMMANDS] if not typed else ()


COMMANDS = (
    *model.COMMANDS,
    *conversation.COMMANDS,
    *turn.COMMANDS,
    *import_export.COMMANDS,
    Command("help", "[COMMAND]", "show the commands and the keys", show_help, _named),
    Command("quit", "", "leave", conversation.leave),
)
