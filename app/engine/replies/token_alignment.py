"""Assigns the tokens of a reply to the pieces of text in which they show."""

from collections import deque

from app.engine.ipc.messages import TokenLogprob
from app.engine.replies.parts import Part


class TokenAlignment:
    """The tokens of one reply that have not shown yet, with the characters of its text that they make.

    A token without a character of its own, such as the first byte of one, belongs to the next token's
    characters. Tokens whose characters show in no part, such as marks and stop strings, are left out.
    """

    def __init__(self) -> None:
        self._waiting: deque[tuple[int, int, TokenLogprob]] = deque()  # start, end
        self._without_text: list[TokenLogprob] = []
        self._length = 0

    def add(self, token: TokenLogprob | None, length: int) -> None:
        """Add the next token, after which the whole text has `length` characters; None if it never shows."""
        if token is not None:
            self._without_text.append(token)
        if length > self._length:
            self._waiting += ((self._length, length, each) for each in self._without_text)
            self._without_text, self._length = [], length

    def take(self, part: Part) -> tuple[TokenLogprob, ...]:
        """Returns the tokens that begin to show in this part."""
        taken = []
        while self._waiting and self._waiting[0][0] < part.end:
            _, end, token = self._waiting.popleft()
            if end > part.start:
                taken.append(token)
        return tuple(taken)
