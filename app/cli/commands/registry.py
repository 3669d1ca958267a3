"""The list of commands, /help, and the parser that tells commands from messages."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from app.cli.commands import branches, conversation, import_export, model, saving, settings, status, turn
from app.cli.commands.command import Choice, Command, Leave, unexpected
from app.cli.conversation.session import Session
from app.cli.errors import UnknownCommand

__all__ = ["COMMANDS", "Call", "Command", "Leave", "find", "parse", "show_help"]

_LINE = re.compile(r"/(?:([A-Za-z]\w*)(?:\s+(.*))?)?", re.DOTALL)
_KEYS = (
    ("Enter", "send the message"),
    ("Alt-Enter, Shift-Enter, Ctrl-J, \\ at the end", "start a new line"),
    ('"""', "start and end a text of several lines"),
    ("Tab", "complete commands, names and @files"),
    ("right arrow", "accept the suggestion"),
    ("Alt-Left, Alt-Right", "show another version of the last answer"),
    ("Ctrl-R", "search the history"),
    ("Ctrl-X Ctrl-E", "edit the line in $EDITOR"),
    ("Ctrl-C", "stop an answer and keep it; clear the line"),
    ("Ctrl-L, Ctrl-D, Ctrl-Z", "redraw; quit; go back to the shell until `fg`"),
)


@dataclass(frozen=True, slots=True)
class Call:
    """A command and the text typed after its name."""

    command: Command
    argument: str


def parse(line: str) -> Call | str:
    """Returns the command that the line calls, or the line as a message.

    `/usr/bin` is a message, and so is the text after `//`.

    Raises:
        UnknownCommand: the line looks like a command, but no command matches.
    """
    if line.startswith("//"):
        return line[1:]
    match = _LINE.fullmatch(line.strip()) if line.startswith("/") else None
    if match is None:
        return line
    return Call(find(match[1] or "help"), (match[2] or "").strip())


def find(name: str) -> Command:
    """Returns the command with this name, or the only command whose name starts with it.

    Raises:
        UnknownCommand: no command matches, or several do. The hint names the most similar commands.
    """
    name = name.removeprefix("/").lower()
    found = [command for command in COMMANDS if command.name.startswith(name)]
    exact = [command for command in COMMANDS if name in (command.name, *command.aliases)]
    if exact or len(found) == 1:
        return (exact or found)[0]
    import difflib  # only a wrong command needs it

    near = [c.name for c in found] or difflib.get_close_matches(name, [c.name for c in COMMANDS], cutoff=0.5)
    hint = f"Did you mean {' or '.join(f'/{n}' for n in near)}?" if near else "/help lists the commands."
    problem = "matches several commands" if found else "is not a command"
    raise UnknownCommand(f"/{name} {problem}.", f"{hint} To send a message that starts with /, type //.")


async def show_help(session: Session, argument: str) -> None:
    if argument:
        if len(argument.split()) > 1:
            raise unexpected("help", argument, "one command")
        return _show_command_help(session, find(argument))
    terminal = session.terminal
    terminal.show_grid([(command.usage, command.help) for command in COMMANDS])
    terminal.say("")
    terminal.show_grid(_KEYS, ["dim"] * len(_KEYS))
    terminal.note(
        "Commands can be shortened. /help COMMAND shows details. @FILE in a message attaches the file."
    )


def _show_command_help(session: Session, command: Command) -> None:
    session.terminal.say(command.usage, "bold")
    session.terminal.say(f"  {command.help}")
    for line in command.more.splitlines():
        session.terminal.note(f"  {line}")


async def leave(session: Session, argument: str) -> None:
    raise Leave


def _command_names(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    return [(command.name, command.help) for command in COMMANDS] if not typed else ()


COMMANDS = (
    *model.COMMANDS,
    *conversation.COMMANDS,
    *saving.COMMANDS,
    *turn.COMMANDS,
    *branches.COMMANDS,
    *settings.COMMANDS,
    *import_export.COMMANDS,
    *status.COMMANDS,
    Command("help", "[COMMAND]", "show the commands and keys", show_help, _command_names),
    Command("quit", "", "leave", leave),
)
