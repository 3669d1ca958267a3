"""Collects a reply while it is generated, with its usage and timings."""

from dataclasses import dataclass, field
from typing import Any

import msgspec

from app.engine.ipc import messages
from app.models.lifecycle.served_model import ServedModel
from app.models.schemas import (
    DeltaEvent,
    FinishReason,
    LogprobEntry,
    Parameters,
    StartEvent,
    TextPart,
    ThinkingEvent,
    ThinkingPart,
    Timings,
    ToolCallEvent,
    ToolCallPart,
    TopLogprob,
    Usage,
)

ReplyPart = TextPart | ThinkingPart | ToolCallPart
PartEvent = DeltaEvent | ThinkingEvent | ToolCallEvent


@dataclass(frozen=True, slots=True)
class GeneratedReply:
    """A complete reply, with the facts about it that every API reports.

    `matched_stop` is the stop string of the request that ended it, if one did.
    """

    parts: tuple[ReplyPart, ...]
    model_name: str
    model_id: str
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    parameters: Parameters
    logprobs: list[LogprobEntry] | None
    prompt_logprobs: list[LogprobEntry] | None
    matched_stop: str | None = None

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def thinking(self) -> str | None:
        """The thinking; None if there is none."""
        return "".join(part.text for part in self.parts if isinstance(part, ThinkingPart)) or None

    @property
    def tool_calls(self) -> tuple[ToolCallPart, ...]:
        return tuple(part for part in self.parts if isinstance(part, ToolCallPart))


class PartCollector:
    """The parts of a reply so far, in order. Neighbours of one kind, or of one call, are one part."""

    def __init__(self) -> None:
        self._parts: list[tuple[PartEvent, list[str]]] = []  # the first event of each, and the pieces of text

    def __bool__(self) -> bool:
        return bool(self._parts)

    def add(self, event: PartEvent) -> None:
        if not self._parts or not _belong_together(self._parts[-1][0], event):
            self._parts.append((event, []))
        self._parts[-1][1].append(event.arguments if isinstance(event, ToolCallEvent) else event.text)

    def parts(self) -> tuple[ReplyPart, ...]:
        return tuple(_part(first, "".join(pieces)) for first, pieces in self._parts)


def _belong_together(first: PartEvent, event: PartEvent) -> bool:
    if isinstance(first, ToolCallEvent) and isinstance(event, ToolCallEvent):
        return (first.id, first.name) == (event.id, event.name)
    return type(first) is type(event)


def _part(first: PartEvent, text: str) -> ReplyPart:
    match first:
        case DeltaEvent():
            return TextPart(text=text)
        case ThinkingEvent():
            return ThinkingPart(text=text)
        case ToolCallEvent():
            return ToolCallPart(id=first.id, name=first.name, arguments=text)


@dataclass(slots=True)
class ReplyCollector:
    """The reply to one request, while it is generated."""

    model: ServedModel
    sampling: messages.SamplingParams
    _parts: PartCollector = field(default_factory=PartCollector)
    _logprobs: list[LogprobEntry] = field(default_factory=list)
    _prompt_logprobs: list[LogprobEntry] = field(default_factory=list)
    _max_tokens: int | None = None

    def start(self, accepted: messages.Accepted) -> StartEvent:
        self._max_tokens = accepted.max_tokens
        return StartEvent(
            model_name=self.model.profile.name,
            model_id=self.model.model_id,
            prompt_tokens=accepted.prompt_tokens,
            omitted_messages=accepted.omitted_messages,
            parameters=self._parameters(),
        )

    def add(self, delta: messages.Delta) -> PartEvent:
        event = self._event(delta)
        self._parts.add(event)
        return event

    def _event(self, delta: messages.Delta) -> PartEvent:
        if delta.kind == "thinking":
            return ThinkingEvent(text=delta.text)
        if (call := delta.tool_call) is not None:
            return ToolCallEvent(index=call.index, id=call.id, name=call.name, arguments=delta.text)
        if self.sampling.top_logprobs is None:
            return DeltaEvent(text=delta.text)
        entries = [logprob_entry(token) for token in delta.logprobs]
        self._logprobs += entries
        return DeltaEvent(text=delta.text, logprobs=entries)

    def add_prompt(self, prompt: messages.PromptLogprobs) -> None:
        self._prompt_logprobs += [logprob_entry(token) for token in prompt.tokens]

    def finish(self, finished: messages.Finished) -> GeneratedReply:
        return GeneratedReply(
            parts=self._parts.parts(),
            model_name=self.model.profile.name,
            model_id=self.model.model_id,
            finish_reason=finished.finish_reason,
            usage=_usage(finished),
            timings=_timings(finished),
            parameters=self._parameters(),
            logprobs=None if self.sampling.top_logprobs is None else self._logprobs,
            prompt_logprobs=self._prompt_logprobs or None,
            matched_stop=finished.matched_stop,
        )

    def _parameters(self) -> Parameters:
        used = msgspec.to_builtins(self.sampling, str_keys=True)
        unknown = dict.fromkeys(self.sampling.left_to_engine)
        fields = {name: used[name] for name in Parameters.model_fields} | unknown
        return Parameters(**(fields | {"max_tokens": self._max_tokens}))


def logprob_entry(token: messages.TokenLogprob) -> LogprobEntry:
    top = [TopLogprob(**_shown(each)) for each in token.top]
    return LogprobEntry(**_shown(token), top_logprobs=top)


def _shown(token: messages.TokenLogprob) -> dict[str, Any]:  # the fields of a TopLogprob
    text = token.token_bytes.decode("utf-8", "replace")
    return {
        "token": text,
        "token_id": token.token_id,
        "bytes": list(token.token_bytes),
        "logprob": token.logprob,
    }


def _usage(finished: messages.Finished) -> Usage:
    usage = finished.usage
    return Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )


def _timings(finished: messages.Finished) -> Timings:
    """Returns the timings. `tokens_per_second` is the speed after the first token."""
    timings = finished.timings
    decode_s = timings.total_s - timings.first_token_s
    decoded_tokens = finished.usage.completion_tokens - 1
    has_speed = decoded_tokens > 0 and decode_s > 0
    return Timings(
        queue_s=timings.queue_s,
        first_token_s=timings.first_token_s,
        total_s=timings.total_s,
        tokens_per_second=decoded_tokens / decode_s if has_speed else None,
    )
