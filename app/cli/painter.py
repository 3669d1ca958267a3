"""Owns an answer that is painted as Markdown while it comes.

The painter rewrites only the rows that are not final, in one write a frame, and never erases before it
writes: nothing flickers, and the scrollback holds the answer as if it had been printed at once.
"""

import asyncio
import contextlib
import itertools
import math
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich.console import COLOR_SYSTEMS, Console
from rich.segment import Segment
from rich.style import Style

from app.cli.markdown import MarkdownStream, Row
from app.cli.render import CONTROLS, without_controls

FRAME_S = 0.05  # between two frames, at least
PAINTING_SHARE = 0.25  # of the time, at most: an answer that is slow to lay out gets fewer frames

BEGIN_FRAME, END_FRAME = "\x1b[?2026h", "\x1b[?2026l"  # the terminal shows all between at once
HIDE_CURSOR, SHOW_CURSOR = "\x1b[?25l", "\x1b[?25h"
CLEAR_TO_END_OF_LINE, CLEAR_BELOW = "\x1b[K", "\x1b[J"


@dataclass(frozen=True, slots=True)
class _Line:
    """A row as it is written."""

    ansi: str
    cells: int

    def rows(self, width: int) -> int:
        """Rows of the screen that it takes."""
        return max(1, math.ceil(self.cells / width))

    def written(self, width: int) -> str:
        """Over whatever the screen holds there. A line that is full leaves nothing to clear: the cursor still
        stands on its last cell. A longer one may leave a cell free where a wide character did not fit."""
        if self.cells > width:
            return f"{CLEAR_BELOW}{self.ansi}\n"
        return f"{self.ansi}{CLEAR_TO_END_OF_LINE if self.cells < width else ''}\n"


class Painter:
    """Paints an answer into the terminal; the rows that are not final stay at the end and are rewritten."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stream = MarkdownStream(console)
        self._status = ""
        self._live: list[_Line] = []  # on the screen, above the cursor
        self._changed = asyncio.Event()
        self._frames: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._write(HIDE_CURSOR)
        self._frames = asyncio.create_task(self._paint_frames())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._frames is not None
        self._frames.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._frames
        self.finish()

    def feed(self, text: str) -> None:
        self._stream.feed(without_controls(text))
        self._status = ""
        self._changed.set()

    def wait(self, status: str) -> None:
        self._status = status
        self._changed.set()

    def paint(self) -> None:
        width, height = self._console.size
        final = self._stream.take(width)
        live = self._stream.live(width) or self._status_rows()
        cropped = [Segment.adjust_line_length(row, width, pad=False) for row in live]
        self._draw(final, cropped[-max(1, height - 1) :], width)

    def finish(self) -> None:
        """All of it is final now."""
        width, _ = self._console.size
        self._draw(self._stream.finish(width), [], width)
        self._write(SHOW_CURSOR)

    async def _paint_frames(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            began = time.perf_counter()
            self.paint()
            await asyncio.sleep(max(FRAME_S, (time.perf_counter() - began) / PAINTING_SHARE))

    def _status_rows(self) -> list[Row]:
        return [[Segment(self._status, Style(dim=True))]] if self._status else []

    def _draw(self, final: list[Row], live: list[Row], width: int) -> None:
        lines = [self._line(row) for row in (*final, *live)]
        pairs = zip(self._live, lines, strict=False)
        same = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        up = sum(line.rows(width) for line in self._live[same:])
        if up or lines[same:]:
            home = f"\x1b[{up}A\r" if up else "\r"
            body = "".join(line.written(width) for line in lines[same:])
            self._write(f"{BEGIN_FRAME}{home}{body}{CLEAR_BELOW}{END_FRAME}")
        self._live = lines[len(final) :]

    def _line(self, row: Row) -> _Line:
        system = self._console.color_system
        colors = COLOR_SYSTEMS[system] if system else None
        segments = [Segment(part.text.translate(CONTROLS), part.style) for part in row]
        if self._console.no_color:
            segments = list(Segment.remove_color(segments))
        ansi = "".join((s.style or Style.null()).render(s.text, color_system=colors) for s in segments)
        return _Line(ansi, sum(segment.cell_length for segment in segments))

    def _write(self, text: str) -> None:
        self._console.file.write(text)
        self._console.file.flush()
