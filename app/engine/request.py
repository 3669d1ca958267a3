"""Owns one accepted request on its way: its tokens, the text they make, and its times.

Knows nothing of the requests beside it, nor of how tokens are computed.
"""

from collections.abc import Set
from dataclasses import dataclass

from app.core.literals import FinishReason
from app.engine.ipc.messages import Finished, RequestTimings, TokenCounts
from app.engine.sampler import RequestSampler
from app.engine.scheduler import TokenSequence
from app.engine.speculative.prompt_lookup import PromptLookup
from app.engine.tokenization.detokenizer import ReplyText
from app.engine.tokenization.parts import Part, PartSplitter


@dataclass(slots=True, eq=False)
class Request:
    """Times are seconds of one monotonic clock; None: not yet."""

    sequence: TokenSequence
    prompt_tokens: int
    max_tokens: int
    stop_ids: Set[int]
    sampler: RequestSampler
    text: ReplyText
    parts: PartSplitter
    guesser: PromptLookup
    arrived: float
    started: float | None = None
    first_token: float | None = None

    @property
    def request_id(self) -> str:
        return self.sequence.request_id

    @property
    def tokens(self) -> int:
        """Reply tokens so far."""
        return len(self.sequence.ids) - self.prompt_tokens

    def guess(self, most: int, price: float) -> None:
        """Lets the sequence have up to `most` guessed ids, each of which costs `price` steps."""
        self.sequence.guess = self.guesser.guess(self.sequence.ids, self._room(most), price)

    def drafts(self, most: int, price: float) -> int:
        """How many ids a draft model shall guess, at that price."""
        length = len(self.sequence.ids)
        unread = length - self.sequence.slot.drafted
        return self.guesser.drafts(length, self.tokens, unread, self._room(most), price)

    def _room(self, most: int) -> int:
        """Guesses that the reply has room for."""
        return min(most, self.max_tokens - self.tokens - 1)

    def begin(self, now: float) -> None:
        """The request is part of a step; only the first one counts."""
        if self.started is None:
            self.started = now

    def take(self, tokens: list[int], now: float) -> tuple[list[Part], FinishReason | None]:
        """Takes the right guesses and the token after them, which a step gave.

        Returns the parts that have become final with them, and why the reply ends, if it does.
        """
        if self.first_token is None:
            self.first_token = now
        sequence, right = self.sequence, len(tokens) - 1
        self.guesser.learn(len(sequence.guess), right)
        text, reason = "", None
        for token in tokens:
            sequence.ids.append(token)
            piece, reason = self._text_of(token)
            text += piece
            if reason is not None:
                break
        sequence.computed = min(sequence.computed + right, len(sequence.ids))
        parts = self.parts.push(text)
        return (parts if reason is None else parts + self.parts.flush()), reason

    def _text_of(self, token: int) -> tuple[str, FinishReason | None]:
        if token in self.stop_ids:
            return self.text.flush(), "stop"
        text = self.text.push(token)
        is_full = self.tokens == self.max_tokens
        if is_full:
            text += self.text.cut()
        if self.text.is_stopped:
            return text, "stop"
        return text, "length" if is_full else None

    def finished(self, reason: FinishReason, now: float) -> Finished:
        started = now if self.started is None else self.started
        first_token = now if self.first_token is None else self.first_token
        usage = TokenCounts(self.prompt_tokens, self.tokens, self.sequence.cached or 0)
        timings = RequestTimings(started - self.arrived, first_token - self.arrived, now - self.arrived)
        return Finished(self.request_id, reason, usage, timings)
