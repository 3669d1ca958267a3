"""Shows the progress of slow work: a bar in a terminal, lines where nothing can be overwritten."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from rich.console import Console

if TYPE_CHECKING:  # slow to import, and most sessions never show a bar
    from rich.progress import Progress, TaskID

BAR_WIDTH = 15
NARROW = 48  # columns; a narrower terminal shows words only


@dataclass(frozen=True, slots=True)
class ProgressUpdate:
    """The state of slow work. `fraction` is None if it is unknown. `details` may change with every update."""

    label: str
    fraction: float | None = None
    details: str = ""

    @property
    def share(self) -> str:
        """The fraction in percent; empty if it is unknown."""
        return "" if self.fraction is None else f"{self.fraction:.0%}"

    def __str__(self) -> str:
        return f"{self.label} {self.details}".rstrip()


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
    def __init__(self, progress: "Progress", task: "TaskID") -> None:
        self._progress = progress
        self._task = task

    def show(self, update: ProgressUpdate) -> None:
        task = self._progress.tasks[0]
        task.total = None if update.fraction is None else 1.0  # `update` cannot make it unknown again
        self._progress.update(self._task, description=str(update), completed=update.fraction or 0.0)


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
        TextColumn("⏳ {task.description}", markup=False, table_column=Column()),  # the only one that wraps
        *(() if is_narrow else (BarColumn(BAR_WIDTH, table_column=unbroken()),)),
        KnownShare(table_column=unbroken()),
        *(() if is_narrow else (TimeElapsedColumn(table_column=unbroken()),)),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _RichBar(progress, progress.add_task("", total=None))
