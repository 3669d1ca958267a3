"""Follows, token by token, whether a reply is in its thinking, and ends the thinking at its budget."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from app.engine.replies.parts import THINK_CLOSE, THINK_OPEN, Thinking
from app.engine.sampling.rules import BANNED
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


class ThinkingBudget:
    """A LogitRule that closes the thinking after `budget` tokens, with the tokens `closing`."""

    def __init__(self, budget: int, closing: Sequence[int], phase: ThinkingPhase) -> None:
        self._left = budget
        self._closing = list(closing)
        self._phase = phase
        self._forced: list[int] = []
        self._force_if_due()

    @property
    def is_active(self) -> bool:
        return bool(self._forced)

    def apply(self, logits: Tensor) -> None:
        forced = float(logits.max())
        logits.fill_(BANNED)
        logits[self._forced[0]] = forced

    def take(self, token: int) -> None:
        if self._forced:
            is_next = token == self._forced.pop(0)
            self._forced = self._forced if is_next else []
        elif self._phase.phase == "thinking":
            self._left -= 1
        self._phase.take(token)
        self._force_if_due()

    def _force_if_due(self) -> None:
        if self._left <= 0 and self._closing and self._phase.phase == "thinking":
            self._forced, self._closing = self._closing, []
