"""Shows the progress of slow work: a bar in a terminal, lines where nothing can be overwritten."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rich.cells import cell_len
from rich.console import Console

if TYPE_CHECKING:  # slow to import, and most sessions never show a bar
    from rich.progress import Progress, TaskID

SYMBOL = "⏳ "
BAR_WIDTH, SHARE_WIDTH, TIME_WIDTH = 16, 5, 8  # each with the gap beside it
NARROW = 48  # columns; a narrower terminal shows words only


@dataclass(frozen=True, slots=True)
class ProgressUpdate:
    """The state of slow work. `fraction` is None if it is unknown.

    `details` may change with every update. No line ends within one of them.
    """

    label: str
    fraction: float | None = None
    details: Sequence[str] = ()

    @property
    def share(self) -> str:
        """The fraction in percent; empty if it is unknown."""
        return "" if self.fraction is None else f"{self.fraction:.0%}"

    def __str__(self) -> str:
        return " ".join((self.label, *self.details))

    def wrapped(self, width: int) -> str:
        """Returns the text in lines of at most `width` cells, if the label and each detail fit into one."""
        lines = [self.label]
        for detail in self.details:
            longer = f"{lines[-1]} {detail}"
            if cell_len(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(detail)
        return "\n".join(lines)


def text_width(width: int) -> int:
    """Returns the cells that a terminal of this width leaves for the text before a bar."""
    beside = SHARE_WIDTH if width < NARROW else BAR_WIDTH + SHARE_WIDTH + TIME_WIDTH
    return width - beside - len(SYMBOL) - 1  # the symbol is two cells wide


class Bar(Protocol):
    def show(self, update: ProgressUpdate) -> None: ...


class ProgressLines:
    """Writes one line for each label, and one for each tenth of its progress."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write
        self._tenths: dict[str, int] = {}  # the last one written, by label

    def show(self, update: ProgressUpdate) -> None:
        tenth = int((update.fraction or 0.0) * 10)
        if self._tenths.get(update.label) != tenth:
            self._write(f"{update} {update.share}" if update.share else f"{update}...")
        self._tenths[update.label] = tenth


class _RichBar:
    def __init__(self, console: Console, progress: "Progress", task: "TaskID") -> None:
        self._console = console
        self._progress = progress
        self._task = task

    def show(self, update: ProgressUpdate) -> None:
        task = self._progress.tasks[0]
        task.total = None if update.fraction is None else 1.0  # `update` cannot make it unknown again
        text = update.wrapped(text_width(self._console.width))
        self._progress.update(self._task, description=text, completed=update.fraction or 0.0)


@contextlib.contextmanager
def rich_bar(console: Console) -> Iterator[Bar]:
    """Yields a bar that disappears at the end."""
    from rich.progress import BarColumn, Progress, Task, TaskProgressColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column
    from rich.text import Text

    class KnownShare(TaskProgressColumn):
        def render(self, task: Task) -> Text:
            return Text() if task.total is None else super().render(task)

    def unbroken() -> Column:
        return Column(no_wrap=True)

    is_narrow = console.width < NARROW
    columns = (
        # the only column that wraps
        TextColumn(f"{SYMBOL}{{task.description}}", markup=False, table_column=Column(overflow="fold")),
        *(() if is_narrow else (BarColumn(BAR_WIDTH - 1, table_column=unbroken()),)),
        KnownShare(table_column=unbroken()),
        *(() if is_narrow else (TimeElapsedColumn(table_column=unbroken()),)),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _RichBar(console, progress, progress.add_task("", total=None))
