"""The definition of a command: name, arguments, help, function and completion."""

from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from app.cli.conversation.session import Session
from app.cli.errors import UsageError

Choice = tuple[str, str]  # the text to insert, and its meaning
Choices = Callable[[Session, Sequence[str]], Iterable[Choice]]
"""Returns the possible next words, given the words typed after the command's name."""


MAX_DIGITS = 9


class Leave(Exception):
    """The user wants to quit."""


def no_choices(session: Session, typed: Sequence[str]) -> Iterable[Choice]:
    return ()


@dataclass(frozen=True, slots=True)
class Command:
    """`run` receives the text after the name. With `takes_path`, the argument is completed as a path. `more`
    is shown by /help COMMAND only. `aliases` are other names, which work but are not listed."""

    name: str
    arguments: str
    help: str
    run: Callable[[Session, str], Awaitable[None]]
    choices: Choices = no_choices
    takes_path: bool = False
    more: str = ""
    aliases: Sequence[str] = ()

    @property
    def usage(self) -> str:
        return f"/{self.name} {self.arguments}".rstrip()

    async def call(self, session: Session, argument: str) -> None:
        """Runs the command.

        Raises:
            UsageError: it takes no argument but got one.
        """
        if argument and not self.arguments:
            raise unexpected(self.name, argument, "no argument")
        await self.run(session, argument)


def unexpected(name: str, argument: str, expected: str) -> UsageError:
    """Returns the error for an argument that a command does not take."""
    return UsageError(f"/{name} takes {expected}, not {argument!r}.", f"/help {name} says more.")


def number_of(text: str) -> int | None:
    """Returns the positive number that the text is, or None."""
    is_number = text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS
    return (int(text) or None) if is_number else None
