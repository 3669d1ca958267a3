"""Writes everything except answers to the terminal, and detects the terminal's capabilities."""

import itertools
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol, TextIO

from rich.console import Console, RenderableType
from rich.text import Text
from rich.theme import Theme

from app.cli.output.answer_view import AnswerView, PlainAnswer
from app.cli.output.console import SafeConsole
from app.cli.output.progress_bar import Bar, ProgressLines, rich_bar

if TYPE_CHECKING:  # a pipe has no line editor
    from app.cli.input.typed_ahead import TypedAhead

_THEME = Theme({"markdown.code": "cyan", "markdown.h1": "bold underline", "markdown.table.border": "dim"})


class ErrorWithHint(Protocol):
    message: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class TerminalStyle:
    """The terminal features that may be used."""

    plain: bool
    color: bool
    symbols: bool  # emoji and table borders
    folds_thoughts: bool = False  # shows reasoning as one line


def detect_style(file: TextIO, plain: bool, no_color: bool, folds_thoughts: bool = False) -> TerminalStyle:
    """Returns the style for `file`.

    It is plain if the user wants that (`plain`, NO_COLOR, ACCESSIBLE), or if the file is not a terminal with
    UTF-8 and cursor movement.
    """

    is_unicode = (file.encoding or "").lower().replace("-", "").startswith("utf")
    is_dumb = os.environ.get("TERM", "dumb") == "dumb"
    is_wanted = plain or bool(os.environ.get("NO_COLOR")) or bool(os.environ.get("ACCESSIBLE"))
    plain = is_wanted or is_dumb or not is_unicode or not file.isatty()
    return TerminalStyle(
        plain, color=not (plain or no_color), symbols=not plain, folds_thoughts=folds_thoughts
    )


class Terminal:
    """Writes answers to `out`. In plain mode everything else goes to `err`, so that a pipe receives only the
    answer."""

    def __init__(self, style: TerminalStyle, out: IO[str] | None = None, err: IO[str] | None = None) -> None:
        self.style = style
        self.typed_ahead: TypedAhead | None = None  # set by the prompt
        self.out = out or sys.stdout
        self.console: Console = SafeConsole(
            file=(err or sys.stderr) if style.plain else self.out,
            force_terminal=False if style.plain else None,
            no_color=not style.color,
            theme=_THEME,
        )

    def say(self, text: str, style: str = "", symbol: str = "", whole: bool = False) -> None:
        """Prints a line, wrapped between words unless it is `whole`, such as a path to copy, or the mode is
        plain."""
        shown = f"{symbol} {text}" if symbol and self.style.symbols else text
        self.console.print(Text(shown, style), soft_wrap=whole or self.style.plain)

    def note(self, text: str) -> None:
        self.say(text, "dim")

    def heading(self, text: str) -> None:
        """Prints the speaker's name, on a terminal only."""
        if self.out.isatty():
            self.say(text, "bold green")

    def fail(self, message: str, hint: str | None = None) -> None:
        self.say(message, "red", "❌")
        if hint:
            self.say(hint, "dim", "  ")

    def show_error(self, error: ErrorWithHint) -> None:
        self.fail(error.message, error.hint)

    def show(self, renderable: RenderableType) -> None:
        self.console.print(renderable)

    def show_grid(self, rows: Sequence[Sequence[str]], styles: Sequence[str] = ()) -> None:
        """Prints rows of at least one column without borders. `styles` has one entry per row, or none."""
        from rich.table import Column, Table  # slow to import, and not needed for the first prompt

        grid = Table.grid(*(Column(overflow="fold") for _ in rows[0]), padding=(0, 2))
        for cells, style in itertools.zip_longest(rows, styles, fillvalue=""):
            grid.add_row(*cells, style=style)
        self.console.print(grid)

    def clear(self) -> None:
        if not self.style.plain:
            self.console.clear()

    async def confirms(self, question: str) -> bool:
        """Returns whether the user presses y.

        Returns False without asking if there is no keyboard, or if the next line is already typed.
        """

        if self.typed_ahead is None or self.typed_ahead.text:
            return False
        self.say(f"{question} Press y for yes, any other key for no.", "yellow")
        return (await self.typed_ahead.next_key()).lower() == "y"

    def answer(self) -> AnswerView:
        if self.style.plain:
            return PlainAnswer(self.out, None if self.style.folds_thoughts else self.console.file)
        from app.cli.output.live_answer import LiveAnswer  # imports Markdown, which is slow

        return LiveAnswer(self.console, self.style.folds_thoughts, self.typed_ahead)

    def preload(self) -> None:
        """Imports the modules for answers, so that the first answer delays no key press. Thread-safe."""
        if not self.style.plain:
            from app.cli.output.live_answer import LiveAnswer  # noqa: F401  (imported for later)
            from app.cli.output.markdown_blocks import highlight

            highlight("pass", "python")

    def bar(self) -> AbstractContextManager[Bar]:
        """Returns a progress bar that disappears at the end; in plain mode, lines."""
        return nullcontext(ProgressLines(self.note)) if self.style.plain else rich_bar(self.console)
