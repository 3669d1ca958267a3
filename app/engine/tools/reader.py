"""Reads text that arrives in pieces: generators that wait for more text, and the parts of JSON.

A generator yields when it needs more text. It raises Cut if there is none, and NotACall if the text is
something else.
"""

import json
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
Reading = Generator[None, None, T]


class NotACall(Exception):
    """The text only looked like a call."""


class Cut(Exception):
    """The text ended in the middle."""


class Reader:
    """The text so far, and the place up to which it was read."""

    def __init__(self) -> None:
        self.text = ""
        self.at = 0
        self.is_final = False

    def wait(self) -> Reading[None]:
        """Waits for more text."""
        if self.is_final:
            raise Cut
        yield

    def peek(self) -> Reading[str]:
        """Returns the next character."""
        while self.at >= len(self.text):
            yield from self.wait()
        return self.text[self.at]

    def skip_space(self) -> Reading[None]:
        while (yield from self.peek()).isspace():
            self.at += 1

    def accepts(self, literal: str) -> Reading[bool]:
        """Returns whether the literal comes next, and reads it if so."""
        while True:
            found = self.text[self.at : self.at + len(literal)]
            if found == literal:
                self.at += len(literal)
                return True
            if not literal.startswith(found):
                return False
            yield from self.wait()

    def expect(self, literal: str) -> Reading[None]:
        if not (yield from self.accepts(literal)):
            raise NotACall

    def until(self, literal: str, emit: Callable[[str], None]) -> Reading[None]:
        """Reads to the end of the literal. Emits the text before it, as soon as it is certain.

        The beginning of a literal that the end of the text cuts off is not emitted.
        """
        while True:
            end = self.text.find(literal, self.at)
            if end >= 0:
                emit(self.text[self.at : end])
                self.at = end + len(literal)
                return
            end = len(self.text) - _begun(self.text[self.at :], literal)
            emit(self.text[self.at : end])
            self.at = end
            yield from self.wait()

    def string(self) -> Reading[str]:
        """Reads a JSON string, and returns its value."""
        pieces: list[str] = []
        if (yield from self.peek()) != '"':
            raise NotACall
        yield from self.value(pieces.append)
        try:
            return str(json.loads("".join(pieces), strict=False))
        except ValueError:
            raise NotACall from None

    def value(self, emit: Callable[[str], None]) -> Reading[None]:
        """Reads one JSON value, and emits it as it is written. Only brackets and quotes are checked."""
        first = yield from self.peek()
        if first == '"':
            yield from self._quoted(emit)
        elif first in "{[":
            yield from self._brackets(emit)
        else:
            yield from self._scalar(emit)

    def _quoted(self, emit: Callable[[str], None]) -> Reading[None]:
        begin, self.at = self.at, self.at + 1
        is_escaped = False
        while True:
            if self.at >= len(self.text):
                emit(self.text[begin : self.at])
                begin = self.at
                yield from self.wait()
                continue
            character = self.text[self.at]
            self.at += 1
            if character == '"' and not is_escaped:
                emit(self.text[begin : self.at])
                return
            is_escaped = character == "\\" and not is_escaped

    def _brackets(self, emit: Callable[[str], None]) -> Reading[None]:
        depth = 0
        begin = self.at
        while True:
            if self.at >= len(self.text):
                emit(self.text[begin : self.at])
                begin = self.at
                yield from self.wait()
                continue
            character = self.text[self.at]
            if character == '"':
                emit(self.text[begin : self.at])
                yield from self._quoted(emit)
                begin = self.at
                continue
            self.at += 1
            depth += (character in "{[") - (character in "}]")
            if depth == 0:
                emit(self.text[begin : self.at])
                return

    def _scalar(self, emit: Callable[[str], None]) -> Reading[None]:
        begin = self.at
        while not ((character := (yield from self.peek())).isspace() or character in ',}]:"{['):
            self.at += 1
        if self.at == begin:
            raise NotACall
        emit(self.text[begin : self.at])


def _begun(text: str, literal: str) -> int:
    """Returns the length of the longest ending of the text that begins the literal."""
    for length in range(min(len(literal) - 1, len(text)), 0, -1):
        if text.endswith(literal[:length]):
            return length
    return 0
