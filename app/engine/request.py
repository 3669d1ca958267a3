"""One accepted request: its token sequence, the text of its reply, and its times."""

from collections.abc import Sequence, Set
from dataclasses import dataclass

from app.core.literals import FinishReason
from app.engine.ipc.messages import Finished, RequestTimings, TokenCounts
from app.engine.replies.detokenizer import ReplyText
from app.engine.replies.parts import Part, PartSplitter
from app.engine.sampling.sampler import RequestSampler
from app.engine.scheduling.sequence import TokenSequence


@dataclass(slots=True, eq=False)
class Request:
    """Times are in seconds on one monotonic clock; a time that has not come yet is None."""

    sequence: TokenSequence
    prompt_tokens: int
    max_tokens: int
    stop_ids: Set[int]
    sampler: RequestSampler
    text: ReplyText
    parts: PartSplitter
    arrived_at: float
    started_at: float | None = None
    first_token_at: float | None = None

    @property
    def request_id(self) -> str:
        return self.sequence.request_id

    @property
    def reply_tokens(self) -> int:
        return len(self.sequence.ids) - self.prompt_tokens

    @property
    def draft_room(self) -> int:
        """Number of draft ids that the next step can use before the reply reaches `max_tokens`."""
        return self.max_tokens - self.reply_tokens - 1

    def start(self, now: float) -> None:
        """Note the request's first step. Later calls change nothing."""
        if self.started_at is None:
            self.started_at = now

    def take(self, tokens: Sequence[int], now: float) -> tuple[list[Part], FinishReason | None]:
        """Take a step's tokens: the draft tokens that were right, and the sampled token after them.

        Returns the parts that have become final, and the reason if the reply ends.
        """
        if self.first_token_at is None:
            self.first_token_at = now
        text, reason, taken = "", None, 0
        while reason is None and taken < len(tokens):
            taken += 1
            piece, reason = self._text_of(tokens[taken - 1], self.reply_tokens + taken)
            text += piece
        self.sequence.accept(tokens[:taken], verified=len(tokens) - 1)
        parts = self.parts.push(text)
        return (parts if reason is None else parts + self.parts.flush()), reason

    def _text_of(self, token: int, reply_tokens: int) -> tuple[str, FinishReason | None]:
        if token in self.stop_ids:
            return self.text.end(token), "stop"
        text = self.text.push(token, may_stop=reply_tokens >= self.sampler.params.min_tokens)
        is_full = reply_tokens == self.max_tokens
        if is_full:
            text += self.text.cut()
        if self.text.is_stopped:
            return text, "stop"
        return text, "length" if is_full else None

    def finished(self, reason: FinishReason, now: float) -> Finished:
        started_at = now if self.started_at is None else self.started_at
        first_token_at = now if self.first_token_at is None else self.first_token_at
        usage = TokenCounts(self.prompt_tokens, self.reply_tokens, self.sequence.cached)
        timings = RequestTimings(
            started_at - self.arrived_at, first_token_at - self.arrived_at, now - self.arrived_at
        )
        return Finished(self.request_id, reason, usage, timings)
