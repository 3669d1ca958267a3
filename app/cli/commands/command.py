"""The definition of a command: name, arguments, help, function and completion."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from app.cli.conversation.session import Session

Choice = tuple[str, str]  # the text to insert, and its meaning
Choices = Callable[[Session, Sequence[str]], Iterable[Choice]]
"""Returns the possible next words, given the words typed after the command's name."""


class Leave(Exception):
    """The user wants to quit."""


def no_choices(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    return ()


@dataclass(frozen=True, slots=True)
class Command:
    """`run` receives the text after the name. With `takes_path`, the argument is completed as a path. `more`
    is shown by /help COMMAND only."""

    name: str
    arguments: str
    help: str
    run: Callable[[Session, str], Awaitable[None]]
    choices: Choices = no_choices
    takes_path: bool = False
    more: str = ""

    @property
    def usage(self) -> str:
        return f"/{self.name} {self.arguments}".rstrip()
