"""Follows, token by token, whether a reply is in its thinking."""

from typing import Literal

from app.engine.replies.parts import THINK_CLOSE, THINK_OPEN, Thinking
from app.engine.tokenization.token_bytes import TokenBytes

Phase = Literal["undecided", "thinking", "text"]
_OPEN, _CLOSE = THINK_OPEN.encode(), THINK_CLOSE.encode()


class ThinkingPhase:
    """The phase of one reply, as PartSplitter sees its text. `tokens` has the texts of the tokens."""

    def __init__(self, thinking: Thinking, tokens: TokenBytes) -> None:
        begins: dict[Thinking, Phase] = {"none": "text", "marked": "undecided", "opened": "thinking"}
        self.phase = begins[thinking]
        self.rest = b""  # of the text, in the token that ended the thinking
        self._tokens = tokens
        self._tail = b""

    def take(self, token: int) -> None:
        """Note the next token."""
        if self.phase == "text":
            return
        self._tail += self._tokens.text_of(token)
        if self.phase == "undecided":
            self._decide()
        if self.phase == "thinking":
            _, mark, rest = self._tail.partition(_CLOSE)
            self._tail = self._tail[-len(_CLOSE) :]
            if mark:
                self.phase, self.rest = "text", rest

    def skip(self) -> None:
        """There is no thinking."""
        self.phase = "text"

    def _decide(self) -> None:
        start = self._tail.lstrip()
        if start.startswith(_OPEN):
            self._tail, self.phase = start[len(_OPEN) :], "thinking"
        elif not _OPEN.startswith(start):
            self.phase = "text"
