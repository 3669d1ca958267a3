"""Redraws the last rows of the terminal in place.

Each frame is one write, rewrites only changed rows, and erases no row before it is overwritten. Therefore the
screen does not flicker, and the scrollback looks as if the final rows had been printed at once.
"""

import itertools
import math
from dataclasses import dataclass

from rich.console import COLOR_SYSTEMS, Console
from rich.segment import Segment
from rich.style import Style

from app.cli.output.formatting import without_controls
from app.cli.output.markdown_stream import Row

BEGIN_FRAME, END_FRAME = "\x1b[?2026h", "\x1b[?2026l"  # the terminal shows everything between them at once
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
CLEAR_TO_END_OF_LINE, CLEAR_BELOW = "\x1b[K", "\x1b[J"


@dataclass(frozen=True, slots=True)
class _Line:
    """A row in the form in which it is written to the terminal."""

    ansi: str
    cells: int

    def height(self, width: int) -> int:
        """Returns the number of screen rows that the line occupies."""
        return max(1, math.ceil(self.cells / width))

    def overwriting(self, width: int) -> str:
        """Returns the text that overwrites the line on the screen.

        A line of exactly the screen's width must not be followed by "clear to end of line", because the
        cursor is still on its last cell. A longer line may leave a cell free if a wide character did not fit,
        so everything below is cleared first.
        """
        if self.cells > width:
            return f"{CLEAR_BELOW}{self.ansi}\n"
        return f"{self.ansi}{CLEAR_TO_END_OF_LINE if self.cells < width else ''}\n"


class ScreenWriter:
    """Writes final rows, and below them live rows that the next frame may replace."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: list[_Line] = []  # on the screen, above the cursor
        self._replaced_rows = 0  # above those, of an earlier writer; the next frame overwrites them
        self.final_rows = 0  # rows of the screen that the final rows took when they were drawn

    @property
    def size(self) -> tuple[int, int]:
        """The current number of columns and rows."""
        return self._console.size

    def replace(self, rows: int) -> None:
        """Lets the next frame begin that many screen rows further up, in place of what is there."""
        self._replaced_rows = rows

    def begin(self) -> None:
        self._write(HIDE_CURSOR)

    def end(self) -> None:
        self._write(SHOW_CURSOR)

    def draw(self, final: list[Row], live: list[Row]) -> None:
        """Writes the final rows, and below them as many of the last live rows as fit on the screen."""
        width, height = self.size
        cropped = [Segment.adjust_line_length(row, width, pad=False) for row in live]
        self._draw(final, cropped[-max(1, height - 1) :], width)

    def _draw(self, final: list[Row], live: list[Row], width: int) -> None:
        lines = [self._line(row) for row in (*final, *live)]
        pairs = zip(self._live, lines, strict=False)
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        up = sum(line.height(width) for line in self._live[same:]) + self._replaced_rows
        self._replaced_rows = 0
        self.final_rows += sum(line.height(width) for line in lines[: len(final)])
        if up or lines[same:]:
            home = f"\x1b[{up}A\r" if up else "\r"
            body = "".join(line.overwriting(width) for line in lines[same:])
            self._write(f"{BEGIN_FRAME}{home}{body}{CLEAR_BELOW}{END_FRAME}")
        self._live = lines[len(final) :]

    def _line(self, row: Row) -> _Line:
        system = self._console.color_system
        colors = COLOR_SYSTEMS[system] if system else None
        segments = [Segment(without_controls(part.text, keeps_lines=False), part.style) for part in row]
        if self._console.no_color:
            segments = list(Segment.remove_color(segments))
        ansi = "".join((s.style or Style.null()).render(s.text, color_system=colors) for s in segments)
        return _Line(ansi, sum(segment.cell_length for segment in segments))

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()
