"""Owns an answer that is painted while it comes: when a frame is painted, and of what.

Rows are laid out in a thread, and what the user types is drawn between the frames: no key waits for Markdown.
"""

import asyncio
import contextlib
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from rich.cells import chop_cells
from rich.segment import Segment
from rich.style import Style

from app.cli.output.markdown import Row
from app.cli.output.screen_writer import ScreenWriter

if TYPE_CHECKING:  # a pipe has no line editor
    from app.cli.input.typed_ahead import TypedAhead

FRAME_S = 0.05  # between two frames, at least
PAINTING_SHARE = 0.25  # of the time, at most: an answer that is slow to lay out gets fewer frames


class Rows(Protocol):
    """What is painted, at the width that the terminal has by then. One thread at a time lays it out, and not
    the event loop's, in which it grows."""

    def take(self, width: int) -> list[Row]:
        """Rows that became final, each once."""

    def live(self, width: int) -> list[Row]:
        """The rest as it is now; takes nothing."""

    def finish(self, width: int) -> list[Row]:
        """All the rest: it is final."""


class LiveView:
    """Paints rows into the terminal, a few times a second, from entering this context to leaving it."""

    def __init__(self, writer: ScreenWriter, rows: Rows, typed_ahead: "TypedAhead | None" = None) -> None:
        self._writer = writer
        self._typed_ahead = typed_ahead
        self._footer = ""
        self._rows = rows
        self._live: list[Row] = []  # as it was laid out last
        self._status = ""
        self._changed = asyncio.Event()
        self._is_over = asyncio.Event()
        self._frames: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._writer.begin()
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
        self._is_over.set()
        self._changed.set()
        try:
            await self._frames  # not cancelled: its thread would go on
            self._writer.draw(await asyncio.to_thread(self._rows.finish, self._width), [])
        finally:
            self._writer.end()

    def wait(self, status: str) -> None:
        """Shows why there are no rows yet."""
        self._status = status
        self.change()

    def show_below(self, text: str) -> None:
        """What the user types meanwhile, at once; it goes when the rows are final."""
        self._footer = text
        self._draw([], self._live)

    def change(self) -> None:
        """There is something new to paint."""
        self._changed.set()

    def paint(self) -> None:
        """A frame, in this thread."""
        self._draw(*self._laid_out(self._width))

    def finish(self) -> None:
        """All of it is final now. In this thread."""
        self._writer.draw(self._rows.finish(self._width), [])
        self._writer.end()

    async def _paint_frames(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._is_over.is_set():
                return
            began = time.perf_counter()
            self._draw(*await asyncio.to_thread(self._laid_out, self._width))
            await self._pause(max(FRAME_S, (time.perf_counter() - began) / PAINTING_SHARE))

    async def _pause(self, duration_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_over.wait(), duration_s)

    def _laid_out(self, width: int) -> tuple[list[Row], list[Row]]:
        """What became final, and the rest."""
        return self._rows.take(width), self._rows.live(width)

    def _draw(self, final: list[Row], live: list[Row]) -> None:
        self._live = live
        self._writer.draw(final, [*(live or self._status_rows()), *self._footer_rows(self._width)])

    @property
    def _width(self) -> int:
        return self._writer.size[0]

    def _footer_rows(self, width: int) -> list[Row]:
        """The end of it, where it is longer than a row."""
        if not self._footer:
            return []
        mark = "You: "
        shown = chop_cells(self._footer[::-1], max(1, width - len(mark) - 1))[0][::-1]
        return [[], [Segment(mark + shown, Style(dim=True))]]

    def _status_rows(self) -> list[Row]:
        return [[Segment(self._status, Style(dim=True))]] if self._status else []
