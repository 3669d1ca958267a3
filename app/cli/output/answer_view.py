"""Shows an answer as it arrives: the interface of every view, and the plain view for pipes."""

from types import TracebackType
from typing import IO, Protocol, Self

from app.cli.output.formatting import without_controls


class AnswerView(Protocol):
    """Shows one answer. It is an async context manager; the whole answer is on the screen when it exits."""

    def feed(self, text: str) -> None:
        """Adds text to the answer."""

    def resume(self, text: str) -> None:
        """Begins with text that was shown before, of which at most the last row is shown again."""

    def think(self, text: str) -> None:
        """Adds to the reasoning that comes before the answer."""

    def wait(self, status: str) -> None:
        """Shows a status until text arrives."""

    def notice(self, text: str) -> None:
        """Shows a line below the answer; an empty text removes it."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class PlainAnswer:
    """Writes the answer unchanged, but without control characters if `file` is a terminal. Reasoning goes to
    `thinking`, and notices to `notices`, or nowhere."""

    def __init__(
        self, file: IO[str], thinking: IO[str] | None = None, notices: IO[str] | None = None
    ) -> None:
        self._file = file
        self._thinking = thinking
        self._notices = notices
        self._is_thinking = False
        self._is_terminal = file.isatty()
        self._last_character = "\n"

    def resume(self, text: str) -> None:
        pass

    def think(self, text: str) -> None:
        if self._thinking is not None:
            self._is_thinking = True
            self._thinking.write(without_controls(text))
            self._thinking.flush()

    def feed(self, text: str) -> None:
        if self._is_thinking and self._thinking is not None:
            self._thinking.write("\n\n")
            self._thinking.flush()
            self._is_thinking = False
        text = without_controls(text) if self._is_terminal else text
        self._file.write(text)
        self._file.flush()
        self._last_character = text[-1:] or self._last_character

    def wait(self, status: str) -> None:
        pass

    def notice(self, text: str) -> None:
        if text and self._notices is not None:
            begin = "\n" if self._is_terminal and self._last_character != "\n" else ""
            self._notices.write(f"{begin}{text}\n")
            self._notices.flush()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._last_character != "\n":
            self._file.write("\n")
        self._file.flush()
