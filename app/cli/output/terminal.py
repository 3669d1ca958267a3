"""Owns what this terminal can do and every line the client writes that is no part of an answer."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Protocol, TextIO

from rich.console import Console, RenderableType
from rich.text import Text
from rich.theme import Theme

if TYPE_CHECKING:  # slow to import, and most sessions never show a bar
    from rich.progress import Progress, TaskID

    from app.cli.input.typed_ahead import TypedAhead

from app.cli.output.answer_view import AnswerView, PlainAnswer, without_controls

BAR_WIDTH = 15
NARROW = 48  # columns; below, there is room for words alone
_THEME = Theme({"markdown.code": "cyan", "markdown.h1": "bold underline", "markdown.table.border": "dim"})


class Problem(Protocol):
    """An error that says in one line what happened, and in one what to do."""

    message: str
    hint: str | None


@dataclass(frozen=True, slots=True)
class Step:
    """Where long work stands. `fraction` is none where nobody knows; `measured` may change at every look."""

    label: str
    fraction: float | None = None
    measured: str = ""

    def __str__(self) -> str:
        return f"{self.label} {self.measured}".rstrip()


class Bar(Protocol):
    def show(self, step: Step) -> None: ...


@dataclass(frozen=True, slots=True)
class TerminalStyle:
    """How much of a terminal may be used."""

    plain: bool
    color: bool
    symbols: bool  # emoji, and lines around tables
    folds_thoughts: bool = False  # shows only that the model thinks, and how long


def detect_style(file: TextIO, plain: bool, no_color: bool, folds_thoughts: bool = False) -> TerminalStyle:
    """Plain where it is asked for (--plain, NO_COLOR, TERM=dumb, ACCESSIBLE) or nobody watches."""
    unicode = (file.encoding or "").lower().replace("-", "").startswith("utf")
    dumb = os.environ.get("TERM", "dumb") == "dumb"
    asked = plain or bool(os.environ.get("NO_COLOR")) or bool(os.environ.get("ACCESSIBLE"))
    plain = asked or dumb or not unicode or not file.isatty()
    return TerminalStyle(
        plain, color=not (plain or no_color), symbols=not plain, folds_thoughts=folds_thoughts
    )


class Terminal:
    """Answers go to `out`; in plain mode all else goes to `err`, so that a pipe gets the answer alone."""

    def __init__(self, look: TerminalStyle, out: IO[str] | None = None, err: IO[str] | None = None) -> None:
        self.style = look
        self.typed_ahead: TypedAhead | None = None  # of the prompt, where there is one
        self.out = out or sys.stdout
        self.console = Console(
            file=(err or sys.stderr) if look.plain else self.out,
            force_terminal=False if look.plain else None,
            no_color=not look.color,
            theme=_THEME,
            markup=False,
            highlight=False,
            emoji=False,
        )

    def say(self, text: str, style: str = "", symbol: str = "", whole: bool = False) -> None:
        """Breaks between words; where nobody watches, or the line must be copied `whole`, not at all."""
        shown = f"{symbol} {text}" if symbol and self.style.symbols else text
        self.console.print(Text(without_controls(shown), style), soft_wrap=whole or self.style.plain)

    def note(self, text: str) -> None:
        self.say(text, "dim")

    def heading(self, text: str) -> None:
        """Whose words follow; for whoever reads along."""
        if self.out.isatty():
            self.say(text, "bold green")

    def fail(self, message: str, hint: str | None = None) -> None:
        self.say(message, "red", "❌")
        if hint:
            self.say(hint, "dim", "  ")

    def problem(self, error: Problem) -> None:
        self.fail(error.message, error.hint)

    def show(self, renderable: RenderableType) -> None:
        self.console.print(renderable)

    def clear(self) -> None:
        if not self.style.plain:
            self.console.clear()

    def answer(self) -> AnswerView:
        if self.style.plain:
            return PlainAnswer(self.out, None if self.style.folds_thoughts else self.console.file)
        from app.cli.output.live_answer import LiveAnswer  # Markdown takes long to import; no prompt waits

        return LiveAnswer(self.console, self.style.folds_thoughts, self.typed_ahead)

    def load_ahead(self) -> None:
        """Loads what only an answer needs, from any thread: else its first code keeps the keys waiting."""
        if not self.style.plain:
            from app.cli.output.blocks import highlight
            from app.cli.output.live_answer import LiveAnswer  # noqa: F401  (to have it loaded)

            highlight("pass", "python")

    @contextlib.contextmanager
    def bar(self) -> Iterator[Bar]:
        """A progress bar that leaves nothing behind; in plain mode, lines."""
        if self.style.plain:
            yield _StepLines(self)
            return
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn
        from rich.table import Column

        def whole() -> Column:
            return Column(no_wrap=True)

        is_narrow = self.console.width < NARROW
        columns = (
            TextColumn("⏳ {task.description}", table_column=Column()),  # breaks where there is no room
            *(() if is_narrow else (BarColumn(BAR_WIDTH, table_column=whole()),)),
            TaskProgressColumn(table_column=whole()),
            *(() if is_narrow else (TimeElapsedColumn(table_column=whole()),)),
        )
        with Progress(*columns, console=self.console, transient=True) as progress:
            task = progress.add_task("", total=None)
            yield _RichBar(progress, task)


class _StepLines:
    """Nothing is written over: a line for each label, and for each tenth of what it stands for."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._told: dict[str, int] = {}  # by label: of several things that go on, each has its own

    def show(self, step: Step) -> None:
        tenth = int((step.fraction or 0.0) * 10)
        if self._told.get(step.label) != tenth:
            self._terminal.note(f"{step}..." if step.fraction is None else f"{step} {step.fraction:.0%}")
        self._told[step.label] = tenth


class _RichBar:
    def __init__(self, progress: "Progress", task: "TaskID") -> None:
        self._progress = progress
        self._task = task

    def show(self, step: Step) -> None:
        total = None if step.fraction is None else 1.0
        self._progress.update(self._task, description=str(step), total=total, completed=step.fraction or 0.0)
