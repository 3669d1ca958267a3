"""Owns an answer as rows of a terminal: what the model thought, dim, and then its Markdown."""

import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from app.cli.output.answer_view import without_controls
from app.cli.output.live_view import LiveView
from app.cli.output.markdown import MarkdownStream, Row
from app.cli.output.screen_writer import ScreenWriter

if TYPE_CHECKING:  # a pipe has no line editor
    from app.cli.input.typed_ahead import TypedAhead

_DIM = Style(dim=True, italic=True)


class Thoughts:
    """Dim text, broken between words. Folded, it is one line that says how long it took."""

    def __init__(self, console: Console, folded: bool) -> None:
        self._console = console
        self._folded = folded
        self._tail = ""
        self._began = time.monotonic()

    def feed(self, text: str) -> None:
        self._tail += text

    def take(self, width: int) -> list[Row]:
        whole, end, self._tail = ("", "", self._tail) if self._folded else self._tail.rpartition("\n")
        return self._laid_out(whole, width) if end else []

    def live(self, width: int) -> list[Row]:
        if self._folded and self._tail:
            return [[Segment(f"thinking for {time.monotonic() - self._began:.0f} s...", _DIM)]]
        return self._laid_out(self._tail, width)

    def finish(self, width: int) -> list[Row]:
        if self._folded and self._tail:
            return [[Segment(f"Thought for {time.monotonic() - self._began:.0f} s.", _DIM)], []]
        rows = self._laid_out(self._tail.rstrip(), width)
        return [*rows, []]

    def _laid_out(self, text: str, width: int) -> list[Row]:
        if not text:
            return []
        lines = Text(text.expandtabs(4), _DIM).wrap(self._console, width)
        return [[s for s in line.render(self._console) if s.text] for line in lines]


class AnswerRows:
    """Thoughts, if there are any, and the answer below them. It grows in one thread and is laid out in
    another, which takes in what came since at the beginning of a frame."""

    def __init__(self, console: Console, fold_thoughts: bool = False) -> None:
        self._console = console
        self._fold = fold_thoughts
        self._thoughts: Thoughts | None = None
        self._is_answering = False
        self._markdown = MarkdownStream(console)
        self._fed: deque[tuple[Callable[[str], None], str]] = deque()

    def think(self, text: str) -> None:
        self._fed.append((self._add_thought, text))

    def feed(self, text: str) -> None:
        self._fed.append((self._add_answer, text))

    def _take_in(self) -> None:
        while self._fed:
            add, text = self._fed.popleft()
            add(without_controls(text))

    def _add_thought(self, text: str) -> None:
        if self._thoughts is None:
            self._thoughts = Thoughts(self._console, self._fold)
        self._thoughts.feed(text)

    def _add_answer(self, text: str) -> None:
        self._is_answering = True
        self._markdown.feed(text)

    def take(self, width: int) -> list[Row]:
        self._take_in()
        if not self._is_answering:
            return [] if self._thoughts is None else self._thoughts.take(width)
        return self._thought(width) + self._markdown.take(width)

    def live(self, width: int) -> list[Row]:
        if self._thoughts is not None:
            return self._thoughts.live(width)
        return self._markdown.live(width)

    def finish(self, width: int) -> list[Row]:
        self._take_in()
        return self._thought(width) + self._markdown.finish(width)

    def _thought(self, width: int) -> list[Row]:
        """The rest of the thoughts, which are over."""
        if self._thoughts is None:
            return []
        rows = self._thoughts.take(width) + self._thoughts.finish(width)
        self._thoughts = None
        return rows


class LiveAnswer(LiveView):
    """Shows one answer; used as an async context manager that leaves it whole on the screen."""

    def __init__(
        self, console: Console, fold_thoughts: bool = False, typed_ahead: "TypedAhead | None" = None
    ) -> None:
        self._answer = AnswerRows(console, fold_thoughts)
        super().__init__(ScreenWriter(console), self._answer, typed_ahead)

    async def __aenter__(self) -> Self:
        return await super().__aenter__()

    def think(self, text: str) -> None:
        self._answer.think(text)
        self.change()

    def feed(self, text: str) -> None:
        self._answer.feed(text)
        self.wait("")
