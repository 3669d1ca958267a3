"""One accepted request: its token sequence, the text of its reply, and its times."""

from collections.abc import Sequence, Set
from dataclasses import dataclass, field

from app.core.literals import FinishReason
from app.engine.ipc.messages import (
    Delta,
    Finished,
    PromptLogprobs,
    RequestTimings,
    TokenCounts,
    TokenLogprob,
)
from app.engine.replies.detokenizer import ReplyText
from app.engine.replies.parts import Part, merged
from app.engine.replies.token_alignment import TokenAlignment
from app.engine.sampling.sampler import RequestSampler
from app.engine.scheduling.sequence import TokenSequence
from app.engine.tools.reply_parts import ReplyParts


@dataclass(slots=True, eq=False)
class Request:
    """Times are in seconds on one monotonic clock; a time that has not come yet is None."""

    sequence: TokenSequence
    prompt_tokens: int
    max_tokens: int
    stop_ids: Set[int]
    sampler: RequestSampler
    text: ReplyText
    parts: ReplyParts
    arrived_at: float
    started_at: float | None = None
    first_token_at: float | None = None
    alignment: TokenAlignment = field(default_factory=TokenAlignment)
    reasoning_tokens: int = 0
    prompt_reported: int = 0  # tokens of the prompt whose log-probabilities were reported
    unread: list[int] = field(default_factory=list)  # the newest tokens, whose text was not made yet

    @property
    def request_id(self) -> str:
        return self.sequence.request_id

    @property
    def reply_tokens(self) -> int:
        return len(self.sequence.ids) - self.prompt_tokens

    @property
    def reply_ids(self) -> Sequence[int]:
        """The ids of the reply so far, without the stop id that ended it."""
        ids = self.sequence.ids[self.prompt_tokens :]
        return ids[:-1] if ids and ids[-1] in self.stop_ids else ids

    @property
    def draft_room(self) -> int:
        """Number of draft ids that the next step can use before the reply reaches `max_tokens`."""
        return max(self.max_tokens - self.reply_tokens - 1, 0)

    def start(self, now: float) -> None:
        """Note the request's first step. Later calls change nothing."""
        if self.started_at is None:
            self.started_at = now

    @property
    def must_end(self) -> bool:
        """Whether no token may follow those of the sequence. Their text can be another reason to end."""
        if self.sampler.is_complete or self.reply_tokens >= self.max_tokens:
            return True
        return bool(self.unread) and self.unread[-1] in self.stop_ids

    def accept(self, tokens: Sequence[int], now: float) -> None:
        """Take a step's tokens: the draft tokens that were right, and the sampled token after them.

        Those after a token that ends the reply are dropped. Call `read` before the next tokens come.
        """
        if self.first_token_at is None:
            self.first_token_at = now
        ends = (count for count, token in enumerate(tokens, 1) if token in self.stop_ids)
        self.unread = list(tokens[: min(next(ends, len(tokens)), self.max_tokens - self.reply_tokens)])
        self.sequence.accept(self.unread, verified=len(tokens) - 1)

    def read(self, logprobs: Sequence[TokenLogprob]) -> tuple[list[Delta], FinishReason | None]:
        """Returns the deltas that have become final with the accepted tokens, and the reason if the reply
        ends. Tokens after a stop string are dropped. A reply that may have no token ends at once.

        `logprobs` are those of the tokens; there are none if they were not asked for.
        """
        tokens, self.unread = self.unread, []
        known = self.reply_tokens - len(tokens)
        parts: list[Part] = []
        reason: FinishReason | None = "length" if self.max_tokens == 0 else None
        count = 0
        while reason is None and count < len(tokens):
            text, reason = self._text_of(tokens[count], known + count + 1)
            if count + 1 == len(tokens) and self.sampler.is_complete and reason != "stop":
                text, reason = text + self.text.flush(), "stop"
            if logprobs:
                is_shown = tokens[count] not in self.stop_ids or self.text.includes_stop
                self.alignment.add(logprobs[count] if is_shown else None, self.text.length)
            parts += self._split(text, known + count + 1)
            if self.parts.is_done:
                reason = "stop"
            count += 1
        self.sequence.truncate(self.prompt_tokens + known + count)
        if reason is not None:
            parts += self.parts.flush()
        return [self._delta(part) for part in merged(parts)], reason

    def take_prompt(self, start: int, tokens: Sequence[TokenLogprob]) -> PromptLogprobs | None:
        """Take the log-probabilities of the ids from `start` on. Returns those of the prompt that are new.

        After a preemption the ids are computed again.
        """
        new = tokens[max(self.prompt_reported - start, 0) : max(self.prompt_tokens - start, 0)]
        self.prompt_reported += len(new)
        return PromptLogprobs(self.request_id, tuple(new)) if new else None

    def _split(self, text: str, reply_tokens: int) -> list[Part]:
        """Returns the parts of the next text, and counts its token if it is of the thinking or its marks."""
        was_thinking = self.parts.is_thinking
        parts = self.parts.push(text)
        if was_thinking or self.parts.is_thinking:
            self.reasoning_tokens = reply_tokens
        return parts

    def _delta(self, part: Part) -> Delta:
        logprobs = self.alignment.take(part)
        return Delta(self.request_id, part.text, self.reply_tokens, part.kind, logprobs, part.call)

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
        usage = TokenCounts(
            self.prompt_tokens, self.reply_tokens, self.sequence.cached, self.reasoning_tokens
        )
        timings = RequestTimings(
            started_at - self.arrived_at, first_token_at - self.arrived_at, now - self.arrived_at
        )
        stop = self.text.matched_stop
        is_of_request = stop in self.sampler.params.stop  # not of the model's chat format
        return Finished(self.request_id, reason, usage, timings, stop if is_of_request else None)
