"""Owns how an answer is shown while it comes: what every view of it offers, and the plain one."""

from types import TracebackType
from typing import IO, Protocol, Self

CONTROLS = dict.fromkeys((*range(0x20), *range(0x7F, 0xA0)))
_ALL_BUT_LINES = dict.fromkeys(code for code in CONTROLS if chr(code) not in "\n\t")


def without_controls(text: str) -> str:
    """Without the characters that a model could steer the terminal with; newline and tab stay."""
    return text.translate(_ALL_BUT_LINES)


class AnswerView(Protocol):
    """Shows one answer; used as an async context manager that leaves it whole on the screen."""

    def feed(self, text: str) -> None: ...

    def think(self, text: str) -> None:
        """Shows what the model says to itself before it answers."""

    def wait(self, status: str) -> None:
        """Shows why nothing has come yet."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class PlainAnswer:
    """Writes the answer as it is; towards a terminal without control characters. Thoughts go where all else
    goes that is no answer, if anywhere."""

    def __init__(self, file: IO[str], thoughts: IO[str] | None = None) -> None:
        self._file = file
        self._thoughts = thoughts
        self._is_thinking = False
        self._is_terminal = file.isatty()
        self._last = "\n"

    def think(self, text: str) -> None:
        if self._thoughts is not None:
            self._is_thinking = True
            self._thoughts.write(without_controls(text))
            self._thoughts.flush()

    def feed(self, text: str) -> None:
        if self._is_thinking and self._thoughts is not None:
            self._thoughts.write("\n\n")
            self._thoughts.flush()
            self._is_thinking = False
        text = without_controls(text) if self._is_terminal else text
        self._file.write(text)
        self._file.flush()
        self._last = text[-1:] or self._last

    def wait(self, status: str) -> None:
        pass

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._last != "\n":
            self._file.write("\n")
        self._file.flush()
