"""Owns an answer that is painted while it comes: when a frame is painted, and of what."""

import asyncio
import contextlib
import time
from types import TracebackType
from typing import Protocol, Self

from rich.segment import Segment
from rich.style import Style

from app.cli.canvas import Canvas
from app.cli.markdown import Row

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

    def __init__(self, canvas: Canvas, rows: Rows) -> None:
        self._canvas = canvas
        self._rows = rows
        self._status = ""
        self._changed = asyncio.Event()
        self._frames: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._canvas.begin()
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

    def wait(self, status: str) -> None:
        """Shows why there are no rows yet."""
        self._status = status
        self.change()

    def change(self) -> None:
        """There is something new to paint."""
        self._changed.set()

    def paint(self) -> None:
        width, _ = self._canvas.size
        final = self._rows.take(width)
        self._canvas.draw(final, self._rows.live(width) or self._status_rows())

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

    def _status_rows(self) -> list[Row]:
        return [[Segment(self._status, Style(dim=True))]] if self._status else []
