"""Writes everything except answers to the terminal, and detects the terminal's capabilities."""

import asyncio
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


class WithRows(Protocol):
    """Something that has written rows to the screen."""

    @property
    def final_rows(self) -> int: ...


class LastBlock:
    """The rows at the end of the screen that belong to the last answer, so that another can replace them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._width = console.width
        self._said_rows = 0
        self._drawn: list[WithRows] = []

    def add_text(self, text: Text) -> None:
        self._said_rows += len(self._console.render_lines(text))

    def add_drawn(self, drawn: WithRows) -> None:
        self._drawn.append(drawn)

    @property
    def replaceable_rows(self) -> int:
        """The number of rows; 0 if they are not all on the screen, or were drawn at another width."""
        rows = self._said_rows + sum(drawn.final_rows for drawn in self._drawn)
        fits = rows < self._console.height and self._console.width == self._width
        return rows if fits else 0


class Terminal:
    """Writes answers to `out`. In plain mode everything else goes to `err`, so that a pipe receives only the
    answer."""

    def __init__(self, style: TerminalStyle, out: IO[str] | None = None, err: IO[str] | None = None) -> None:
        self.style = style
        self.typed_ahead: TypedAhead | None = None  # set by the prompt
        self._block: LastBlock | None = None
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
        shown = Text(f"{symbol} {text}" if symbol and self.style.symbols else text, style)
        self.console.print(shown, soft_wrap=whole or self.style.plain)
        if self._block is not None and not whole:
            self._block.add_text(shown)

    def note(self, text: str) -> None:
        self.say(text, "dim")

    def heading(self, text: str) -> None:
        """Prints the speaker's name, on a terminal only. Begins the rows of an answer."""
        self._block = None if self.style.plain else LastBlock(self.console)
        if self.out.isatty():
            self.say(text, "bold green")

    def end_answer(self) -> None:
        """Declares the rows of the last answer final, because something else follows them."""
        self._block = None

    def fail(self, message: str, hint: str | None = None) -> None:
        self.end_answer()
        self.say(message, "red", "❌")
        if hint:
            self.say(hint, "dim", "  ")

    def show_error(self, error: ErrorWithHint) -> None:
        self.fail(error.message, error.hint)

    def show(self, renderable: RenderableType) -> None:
        self.end_answer()
        self.console.print(renderable)

    def show_grid(self, rows: Sequence[Sequence[str]], styles: Sequence[str] = ()) -> None:
        """Prints rows of at least one column without borders. `styles` has one entry per row, or none."""
        from rich.table import Column, Table  # slow to import, and not needed for the first prompt

        self.end_answer()
        grid = Table.grid(*(Column(overflow="fold") for _ in rows[0]), padding=(0, 2))
        for cells, style in itertools.zip_longest(rows, styles, fillvalue=""):
            grid.add_row(*cells, style=style)
        self.console.print(grid)

    def clear(self) -> None:
        self.end_answer()
        if not self.style.plain:
            self.console.clear()

    @property
    def can_ask(self) -> bool:
        """Whether there is a keyboard, and the next line is not typed yet."""
        return self.typed_ahead is not None and not self.typed_ahead.text

    async def confirms(self, question: str) -> bool:
        """Returns whether the user presses y. Returns False without asking unless `can_ask`."""
        if self.typed_ahead is None or not self.can_ask:
            return False
        self.say(f"{question} Press y for yes, any other key for no.", "yellow")
        return (await self.typed_ahead.next_key()).lower() == "y"

    def answer(self) -> AnswerView:
        if self.style.plain:
            err = self.console.file
            return PlainAnswer(self.out, None if self.style.folds_thoughts else err, err)
        from app.cli.output.live_answer import LiveAnswer  # imports Markdown, which is slow

        view = LiveAnswer(self.console, self.style.folds_thoughts, self.typed_ahead)
        if self._block is not None:
            self._block.add_drawn(view)
        return view

    async def replace_answer(self, heading: str, thinking: str, text: str) -> None:
        """Shows another answer in place of the last one, if that is still at the end of the screen, else
        below."""
        replaced = 0 if self._block is None else self._block.replaceable_rows
        if self.style.plain:
            self.heading(heading)
            async with self.answer() as view:
                view.feed(text)
            return
        from app.cli.output.live_answer import draw_message
        from app.cli.output.screen_writer import ScreenWriter

        writer = ScreenWriter(self.console)
        writer.replace(replaced)
        shown_thinking = "" if self.style.folds_thoughts else thinking
        await asyncio.to_thread(draw_message, writer, self.console, heading, shown_thinking, text)
        self._block = LastBlock(self.console)
        self._block.add_drawn(writer)

    def preload(self) -> None:
        """Imports the modules for answers, so that the first answer delays no key press. Thread-safe."""
        if not self.style.plain:
            from app.cli.output.live_answer import LiveAnswer  # noqa: F401  (imported for later)
            from app.cli.output.markdown_blocks import highlight

            highlight("pass", "python")

    def bar(self) -> AbstractContextManager[Bar]:
        """Returns a progress bar that disappears at the end; in plain mode, lines."""
        self.end_answer()
        return nullcontext(ProgressLines(self.note)) if self.style.plain else rich_bar(self.console)
