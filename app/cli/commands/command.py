"""Owns what a command is: its name, its arguments, its help and its completion in one place."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from app.cli.conversation.session import Session

Choice = tuple[str, str]  # what is inserted, and what it means
Choices = Callable[[Session, Sequence[str]], Iterable[Choice]]
"""What can stand next, after the words that were typed behind the command's name."""


class Leave(Exception):
    """The user wants to go."""


def no_choices(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    return ()


@dataclass(frozen=True, slots=True)
class Command:
    """`run` takes what was typed after the name. `takes_path`: its argument is completed as a file."""

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
