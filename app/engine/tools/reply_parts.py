"""Splits a reply's text into all its typed parts: thinking, text and tool calls."""

from collections.abc import Sequence

from app.engine.replies.parts import Part, PartSplitter
from app.engine.tools.parser import ToolCallParser


class ReplyParts:
    """The parts of one reply, whose text comes in pieces. Without a parser no text is a call."""

    def __init__(self, splitter: PartSplitter, parser: ToolCallParser | None = None) -> None:
        self._splitter = splitter
        self._parser = parser

    @property
    def is_thinking(self) -> bool:
        return self._splitter.is_thinking

    @property
    def is_done(self) -> bool:
        """Whether the reply must end here."""
        return self._parser is not None and self._parser.is_done

    def push(self, text: str) -> list[Part]:
        """Returns the parts that have become final with this piece."""
        return self._with_calls(self._splitter.push(text))

    def flush(self) -> list[Part]:
        """Returns the rest. Call it after the last piece."""
        parts = self._with_calls(self._splitter.flush())
        return parts if self._parser is None else parts + self._parser.flush()

    def _with_calls(self, parts: Sequence[Part]) -> list[Part]:
        if self._parser is None:
            return list(parts)
        found: list[Part] = []
        for part in parts:
            found += self._parser.push(part) if part.kind == "text" else [part]
        return found
