"""Shows an answer in a terminal as it arrives: the model's reasoning, dimmed, and then Markdown."""

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from app.cli.output.formatting import without_controls
from app.cli.output.live_view import LiveView
from app.cli.output.markdown_stream import MarkdownStream, Row
from app.cli.output.screen_writer import ScreenWriter

if TYPE_CHECKING:  # a pipe has no line editor
    from app.cli.input.typed_ahead import TypedAhead

_DIM = Style(dim=True, italic=True)
Clock = Callable[[], float]


class Thoughts:
    """The reasoning as dimmed text, wrapped between words. Folded, it is one line that says how long it
    took."""

    def __init__(self, console: Console, is_folded: bool, clock: Clock) -> None:
        self._console = console
        self._is_folded = is_folded
        self._tail = ""
        self._clock = clock
        self._began = clock()

    def feed(self, text: str) -> None:
        self._tail += text

    def take(self, width: int) -> list[Row]:
        if self._is_folded:
            return []
        complete, newline, self._tail = self._tail.rpartition("\n")
        return self._laid_out(complete, width) if newline else []

    def live(self, width: int) -> list[Row]:
        if self._is_folded and self._tail:
            return [[Segment(f"thinking for {self._elapsed_s:.0f} s...", _DIM)]]
        return self._laid_out(self._tail, width)

    def finish(self, width: int) -> list[Row]:
        if self._is_folded and self._tail:
            return [[Segment(f"Thought for {self._elapsed_s:.0f} s.", _DIM)], []]
        return [*self._laid_out(self._tail.rstrip(), width), []]

    @property
    def _elapsed_s(self) -> float:
        return self._clock() - self._began

    def _laid_out(self, text: str, width: int) -> list[Row]:
        if not text:
            return []
        lines = Text(text.expandtabs(4), _DIM).wrap(self._console, width)
        return [[s for s in line.render(self._console) if s.text] for line in lines]


class AnswerRows:
    """The rows of the reasoning, if any, and of the answer below it.

    `think` and `feed` queue text in the event loop; the other methods take it from the queue in the thread
    that lays out.
    """

    def __init__(self, console: Console, folds_thoughts: bool = False, clock: Clock = time.monotonic) -> None:
        self._console = console
        self._folds_thoughts = folds_thoughts
        self._clock = clock
        self._thoughts: Thoughts | None = None
        self._is_answering = False
        self._markdown = MarkdownStream(console)
        self._queue: deque[tuple[bool, str]] = deque()  # whether the text is reasoning, and the text
        self._resumed = ""  # text that was shown before
        self._shown_rows = 0  # of that text, which are not to be shown again

    def think(self, text: str) -> None:
        self._queue.append((True, text))

    def feed(self, text: str) -> None:
        self._queue.append((False, text))

    def resume(self, text: str) -> None:
        """Begins with text that was shown before. Shows only its last row, which grows."""
        self._resumed = without_controls(text)
        self.feed(text)

    def take(self, width: int) -> list[Row]:
        self._empty_queue()
        if not self._is_answering:
            return [] if self._thoughts is None else self._thoughts.take(width)
        self._count_shown_rows(width)
        return self._finish_thoughts(width) + self._unseen(self._markdown.take(width))

    def live(self, width: int) -> list[Row]:
        if self._thoughts is not None:
            return self._thoughts.live(width)
        return self._markdown.live(width)[self._shown_rows :]

    def finish(self, width: int) -> list[Row]:
        self._empty_queue()
        self._count_shown_rows(width)
        return self._finish_thoughts(width) + self._unseen(self._markdown.finish(width))

    def _count_shown_rows(self, width: int) -> None:
        if self._resumed:
            before = MarkdownStream(self._console)
            before.feed(self._resumed)
            self._shown_rows = max(0, len(before.finish(width)) - 1)
            self._resumed = ""

    def _unseen(self, rows: list[Row]) -> list[Row]:
        """Returns the rows that were not shown before."""
        seen = min(self._shown_rows, len(rows))
        self._shown_rows -= seen
        return rows[seen:]

    def _empty_queue(self) -> None:
        while self._queue:
            is_reasoning, text = self._queue.popleft()
            text = without_controls(text)
            if not is_reasoning:
                self._is_answering = True
                self._markdown.feed(text)
                continue
            if self._thoughts is None:
                self._thoughts = Thoughts(self._console, self._folds_thoughts, self._clock)
            self._thoughts.feed(text)

    def _finish_thoughts(self, width: int) -> list[Row]:
        if self._thoughts is None:
            return []
        rows = self._thoughts.take(width) + self._thoughts.finish(width)
        self._thoughts = None
        return rows


def draw_message(writer: ScreenWriter, console: Console, heading: str, thinking: str, text: str) -> None:
    """Draws a complete message at once, in the rows that the writer replaces or below."""
    answer, width = AnswerRows(console), writer.size[0]
    if thinking:
        answer.think(thinking)
    answer.feed(text)
    title = Text(heading, "bold green").wrap(console, width)
    writer.draw([*(list(line.render(console, end="")) for line in title), *answer.finish(width)], [])


class LiveAnswer(LiveView):
    """The AnswerView of a terminal."""

    def __init__(
        self, console: Console, folds_thoughts: bool = False, typed_ahead: "TypedAhead | None" = None
    ) -> None:
        self._answer = AnswerRows(console, folds_thoughts)
        self._writer = ScreenWriter(console)
        super().__init__(self._writer, self._answer, typed_ahead)

    @property
    def final_rows(self) -> int:
        """The rows of the screen that the answer takes."""
        return self._writer.final_rows

    async def __aenter__(self) -> Self:
        return await super().__aenter__()

    def resume(self, text: str) -> None:
        self._answer.resume(text)
        self.change()

    def think(self, text: str) -> None:
        self._answer.think(text)
        self.change()

    def feed(self, text: str) -> None:
        self._answer.feed(text)
        self.wait("")
