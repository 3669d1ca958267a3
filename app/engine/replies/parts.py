"""Splits a reply's text, which arrives in pieces, into typed parts: thinking and text."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from app.engine.ipc.messages import DeltaKind
from app.engine.replies.stop_strings import partial_match_length

Thinking = Literal["none", "marked", "opened"]  # in a reply: never, between marks, or from the first token

THINK_OPEN, THINK_CLOSE = "<think>", "</think>"  # what reasoning models write around their reasoning


@dataclass(frozen=True, slots=True)
class Part:
    kind: DeltaKind
    text: str


class PartSplitter:
    """Splits one reply. Only thinking at the beginning counts. The marks around it are left out."""

    def __init__(self, thinking: Thinking = "none") -> None:
        """`opened` means that the prompt ends with the opening mark, so the reply begins with thinking."""
        self._state = {"none": "text", "marked": "undecided", "opened": "thinking"}[thinking]
        self._held = ""
        self._is_beginning = thinking == "opened"  # line breaks here belong to the mark before

    def push(self, text: str) -> list[Part]:
        """Returns the parts that have become final with this piece. None of them is empty."""
        self._held += text
        return [part for part in self._advance() if part.text]

    def flush(self) -> list[Part]:
        """Returns the text that was held back. Call it after the last piece."""
        held, self._held = self._held, ""
        return [Part("thinking" if self._state == "thinking" else "text", held)] if held else []

    def _advance(self) -> Iterator[Part]:
        if self._state == "undecided":
            self._decide()
        if self._state == "thinking":
            yield Part("thinking", self._take_thinking())
        if self._state == "text":
            text, self._held = self._held, ""
            yield Part("text", self._without_leading_breaks(text))

    def _decide(self) -> None:
        start = self._held.lstrip()
        if start.startswith(THINK_OPEN):
            self._held, self._state, self._is_beginning = start[len(THINK_OPEN) :], "thinking", True
        elif not THINK_OPEN.startswith(start):
            self._state = "text"

    def _take_thinking(self) -> str:
        """Takes the final thinking from the held text. An ending that may begin the closing mark is kept."""
        thinking, mark, rest = self._held.partition(THINK_CLOSE)
        if mark:
            thinking = self._without_leading_breaks(thinking).rstrip("\n")
            self._held, self._state, self._is_beginning = rest, "text", True
            return thinking
        end = len(thinking[: len(thinking) - partial_match_length(thinking, (THINK_CLOSE,))].rstrip("\n"))
        self._held = thinking[end:]
        return self._without_leading_breaks(thinking[:end])

    def _without_leading_breaks(self, text: str) -> str:
        if self._is_beginning:
            text = text.lstrip("\n")
            self._is_beginning = not text
        return text
