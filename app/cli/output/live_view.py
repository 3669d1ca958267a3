"""Redraws rows in the terminal while they grow, some twenty times a second.

Rows are laid out in a thread, and what the user types is drawn between the frames, so that no key press waits
for Markdown.
"""

import asyncio
import contextlib
import time
from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from rich.cells import chop_cells
from rich.segment import Segment
from rich.style import Style

from app.cli.output.markdown_stream import Row
from app.cli.output.screen_writer import ScreenWriter

if TYPE_CHECKING:  # a pipe has no line editor
    from app.cli.input.typed_ahead import TypedAhead

FRAME_S = 0.05  # shortest time between two frames
MAX_LAYOUT_SHARE = 0.25  # of the time; an answer that is slow to lay out gets fewer frames


class Rows(Protocol):
    """Content that grows in the event loop and is laid out, for the given width, in one thread at a time."""

    def take(self, width: int) -> list[Row]:
        """Returns the rows that have become final since the last call."""

    def live(self, width: int) -> list[Row]:
        """Returns the rows that are not final yet."""

    def finish(self, width: int) -> list[Row]:
        """Returns all remaining rows, as final ones."""


class RowScreen:
    """Draws rows, a status line until there are any, and below them what the user types."""

    def __init__(self, writer: ScreenWriter, rows: Rows) -> None:
        self.status = ""
        self.notice = ""
        self._writer = writer
        self._rows = rows
        self._live: list[Row] = []  # the last layout
        self._footer = ""

    def lay_out(self) -> tuple[list[Row], list[Row]]:
        """Returns the new final rows, and the live ones. May be called in any thread, one at a time."""
        width = self._width
        return self._rows.take(width), self._rows.live(width)

    def lay_out_rest(self) -> list[Row]:
        """Returns all remaining rows. May be called in any thread, after the last `lay_out`."""
        return self._rows.finish(self._width)

    def begin(self) -> None:
        self._writer.begin()

    def draw(self, final: list[Row], live: list[Row]) -> None:
        self._live = live
        self._writer.draw(final, [*(live or self._status_rows()), *self._notice_rows(), *self._footer_rows()])

    def draw_footer(self, text: str) -> None:
        """Shows what the user has typed below the rows."""
        self._footer = text
        self.draw([], self._live)

    def draw_rest(self, rest: list[Row]) -> None:
        """Draws the last rows, and removes the status and the footer."""
        self._writer.draw(rest, [])

    def end(self) -> None:
        self._writer.end()

    @property
    def _width(self) -> int:
        return self._writer.size[0]

    def _status_rows(self) -> list[Row]:
        return [[Segment(self.status, Style(dim=True))]] if self.status else []

    def _notice_rows(self) -> list[Row]:
        return [[Segment(self.notice, Style(color="yellow"))]] if self.notice else []

    def _footer_rows(self) -> list[Row]:
        """Returns an empty row, and one with the end of the text."""
        if not self._footer:
            return []
        mark = "You: "
        shown = chop_cells(self._footer[::-1], max(1, self._width - len(mark) - 1))[0][::-1]
        return [[], [Segment(mark + shown, Style(dim=True))]]


class LiveView:
    """Redraws the rows whenever they change, as long as this context is open."""

    def __init__(
        self,
        writer: ScreenWriter,
        rows: Rows,
        typed_ahead: "TypedAhead | None" = None,
        frame_s: float = FRAME_S,
    ) -> None:
        self._screen = RowScreen(writer, rows)
        self._typed_ahead = typed_ahead
        self._frame_s = frame_s
        self._changed = asyncio.Event()
        self._is_over = asyncio.Event()
        self._drawing: asyncio.Task[None] | None = None
        self._echoing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._screen.begin()
        self._drawing = asyncio.create_task(self._draw_frames())
        if self._typed_ahead is not None:
            self._echoing = asyncio.create_task(self._echo_keys(self._typed_ahead))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._drawing is not None
        if self._echoing is not None:
            self._echoing.cancel()
            await asyncio.gather(self._echoing, return_exceptions=True)
        self._is_over.set()
        self._changed.set()
        try:
            await self._drawing  # not cancelled: its thread would keep running
            self._screen.draw_rest(await asyncio.to_thread(self._screen.lay_out_rest))
        finally:
            self._screen.end()

    def wait(self, status: str) -> None:
        """Shows a status as long as there are no rows."""
        self._screen.status = status
        self.change()

    def notice(self, text: str) -> None:
        """Shows a line below the rows; an empty text removes it."""
        self._screen.notice = text
        self.change()

    def change(self) -> None:
        """Requests a frame, because the rows have changed."""
        self._changed.set()

    async def _draw_frames(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            if self._is_over.is_set():
                return
            began = time.perf_counter()
            self._screen.draw(*await asyncio.to_thread(self._screen.lay_out))
            await self._pause(max(self._frame_s, (time.perf_counter() - began) / MAX_LAYOUT_SHARE))

    async def _pause(self, duration_s: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._is_over.wait(), duration_s)

    async def _echo_keys(self, typed_ahead: "TypedAhead") -> None:
        while True:
            self._screen.draw_footer(typed_ahead.text)
            await typed_ahead.wait_for_key()
