"""Splits a reply's text, which arrives in pieces, into typed parts: thinking and text."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from app.engine.ipc.messages import DeltaKind, ToolCallRef
from app.engine.replies.stop_strings import partial_match_length

Thinking = Literal["none", "marked", "opened"]  # in a reply: never, between marks, or from the first token

THINK_OPEN, THINK_CLOSE = (
    "<think>",
    "</think>",
)  # the marks that reasoning models write around their reasoning


@dataclass(frozen=True, slots=True)
class Part:
    """A final piece of a reply: characters `start` to `end` of its whole text, marks included."""

    kind: DeltaKind
    text: str
    start: int
    end: int
    call: ToolCallRef | None = None  # to which the text, a piece of its arguments, belongs


class PartSplitter:
    """Splits one reply. Only thinking at the beginning counts. The marks around it are left out."""

    def __init__(self, thinking: Thinking = "none") -> None:
        """`opened` means that the prompt ends with the opening mark, so the reply begins with thinking."""
        self._state = {"none": "text", "marked": "undecided", "opened": "thinking"}[thinking]
        self._held = ""
        self._begin = 0  # position of the held text in the reply
        self._is_beginning = thinking == "opened"  # line breaks here belong to the mark before

    @property
    def is_thinking(self) -> bool:
        """Whether the next character belongs to the thinking, or to the mark at its end."""
        return self._state == "thinking"

    def push(self, text: str) -> list[Part]:
        """Returns the parts that have become final with this piece. None of them is empty."""
        self._held += text
        return [part for part in self._advance() if part.text]

    def flush(self) -> list[Part]:
        """Returns the text that was held back. Call it after the last piece."""
        part = self._take("thinking" if self._state == "thinking" else "text", len(self._held))
        return [part] if part.text else []

    def _advance(self) -> Iterator[Part]:
        if self._state == "undecided":
            self._decide()
        if self._state == "thinking":
            yield self._take_thinking()
        if self._state == "text":
            self._skip_leading_breaks()
            yield self._take("text", len(self._held))

    def _decide(self) -> None:
        start = self._held.lstrip()
        if start.startswith(THINK_OPEN):
            self._skip(len(self._held) - len(start) + len(THINK_OPEN))
            self._state, self._is_beginning = "thinking", True
        elif not THINK_OPEN.startswith(start):
            self._state = "text"

    def _take_thinking(self) -> Part:
        """Takes the final thinking from the held text. An ending that may begin the closing mark is kept."""
        self._skip_leading_breaks()
        end = self._held.find(THINK_CLOSE)
        is_closed = end >= 0
        if not is_closed:
            end = len(self._held) - partial_match_length(self._held, (THINK_CLOSE,))
        part = self._take("thinking", len(self._held[:end].rstrip("\n")))
        if is_closed:
            self._skip(end - (part.end - part.start) + len(THINK_CLOSE))
            self._state, self._is_beginning = "text", True
        return part

    def _skip_leading_breaks(self) -> None:
        if self._is_beginning:
            self._skip(len(self._held) - len(self._held.lstrip("\n")))
            self._is_beginning = not self._held

    def _skip(self, length: int) -> None:
        self._held = self._held[length:]
        self._begin += length

    def _take(self, kind: DeltaKind, length: int) -> Part:
        text, start = self._held[:length], self._begin
        self._skip(length)
        return Part(kind, text, start, start + length)


def merged(parts: Sequence[Part]) -> list[Part]:
    """Returns the parts, with neighbours of one kind joined."""
    joined: list[Part] = []
    for part in parts:
        if joined and (joined[-1].kind, joined[-1].call) == (part.kind, part.call):
            last = joined.pop()
            part = Part(part.kind, last.text + part.text, last.start, part.end, part.call)
        joined.append(part)
    return joined
