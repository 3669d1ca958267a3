"""Owns an answer that is painted while it comes: when a frame is painted, and of what."""

import asyncio
import contextlib
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from rich.cells import chop_cells
from rich.segment import Segment
from rich.style import Style

from app.cli.canvas import Canvas
from app.cli.markdown import Row

if TYPE_CHECKING:  # a pipe has no line editor
    from app.cli.typed_ahead import TypedAhead

FRAME_S = 0.05  # between two frames, at least
PAINTING_SHARE = 0.25  # of the time, at most: an answer that is slow to lay out gets fewer frames


class Rows(Protocol):
    """What is painted, at the width that the terminal has by then."""

    def take(self, width: int) -> list[Row]:
        """Rows that became final, each once."""

    def live(self, width: int) -> list[Row]:
        """The rest as it is now; takes nothing."""

    def finish(self, width: int) -> list[Row]:
        """All the rest: it is final."""


class Painter:
    """Paints rows into the terminal, a few times a second, from entering this context to leaving it."""

    def __init__(self, canvas: Canvas, rows: Rows, typed_ahead: "TypedAhead | None" = None) -> None:
        self._canvas = canvas
        self._typed_ahead = typed_ahead
        self._footer = ""
        self._rows = rows
        self._status = ""
        self._changed = asyncio.Event()
        self._frames: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._canvas.begin()
        if self._typed_ahead is not None:
            self._typed_ahead.show = self.show_below
            self._footer = self._typed_ahead.text
        self._frames = asyncio.create_task(self._paint_frames())
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._frames is not None
        if self._typed_ahead is not None:
            self._typed_ahead.show = None
        self._frames.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._frames
        self.finish()

    def wait(self, status: str) -> None:
        """Shows why there are no rows yet."""
        self._status = status
        self.change()

    def show_below(self, text: str) -> None:
        """What the user types meanwhile; it goes when the rows are final."""
        self._footer = text
        self.change()

    def change(self) -> None:
        """There is something new to paint."""
        self._changed.set()

    def paint(self) -> None:
        width, _ = self._canvas.size
        final = self._rows.take(width)
        live = self._rows.live(width) or self._status_rows()
        self._canvas.draw(final, [*live, *self._footer_rows(width)])

    def finish(self) -> None:
        """All of it is final now."""
        self._canvas.draw(self._rows.finish(self._canvas.size[0]), [])
        self._canvas.end()

    async def _paint_frames(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            began = time.perf_counter()
            self.paint()
            await asyncio.sleep(max(FRAME_S, (time.perf_counter() - began) / PAINTING_SHARE))

    def _footer_rows(self, width: int) -> list[Row]:
        """The end of it, where it is longer than a row."""
        if not self._footer:
            return []
        mark = "You: "
        shown = chop_cells(self._footer[::-1], max(1, width - len(mark) - 1))[0][::-1]
        return [[], [Segment(mark + shown, Style(dim=True))]]

    def _status_rows(self) -> list[Row]:
        return [[Segment(self._status, Style(dim=True))]] if self._status else []
