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
    ThinkingEvent,
    Timings,
    ToolCallEvent,
    ToolCallPart,
    TopLogprob,
    Usage,
)


@dataclass(frozen=True, slots=True)
class GeneratedReply:
    """A complete reply, with the facts about it that every API reports."""

    text: str
    thinking: str | None
    model_name: str
    model_id: str
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    parameters: Parameters
    logprobs: list[LogprobEntry] | None
    prompt_logprobs: list[LogprobEntry] | None
    tool_calls: tuple[ToolCallPart, ...] = ()


@dataclass(slots=True)
class ReplyCollector:
    """The reply to one request, while it is generated."""

    model: ServedModel
    sampling: messages.SamplingParams
    _text: list[str] = field(default_factory=list)
    _thinking: list[str] = field(default_factory=list)
    _logprobs: list[LogprobEntry] = field(default_factory=list)
    _prompt_logprobs: list[LogprobEntry] = field(default_factory=list)
    _tool_calls: dict[int, tuple[messages.ToolCallRef, list[str]]] = field(default_factory=dict)
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

    def add(self, delta: messages.Delta) -> ThinkingEvent | ToolCallEvent | DeltaEvent:
        if delta.kind == "thinking":
            self._thinking.append(delta.text)
            return ThinkingEvent(text=delta.text)
        if delta.tool_call is not None:
            call = delta.tool_call
            self._tool_calls.setdefault(call.index, (call, []))[1].append(delta.text)
            return ToolCallEvent(index=call.index, id=call.id, name=call.name, arguments=delta.text)
        self._text.append(delta.text)
        if self.sampling.top_logprobs is None:
            return DeltaEvent(text=delta.text)
        entries = [logprob_entry(token) for token in delta.logprobs]
        self._logprobs += entries
        return DeltaEvent(text=delta.text, logprobs=entries)

    def add_prompt(self, prompt: messages.PromptLogprobs) -> None:
        self._prompt_logprobs += [logprob_entry(token) for token in prompt.tokens]

    def finish(self, finished: messages.Finished) -> GeneratedReply:
        return GeneratedReply(
            text="".join(self._text),
            thinking="".join(self._thinking) if self._thinking else None,
            model_name=self.model.profile.name,
            model_id=self.model.model_id,
            finish_reason=finished.finish_reason,
            usage=_usage(finished),
            timings=_timings(finished),
            parameters=self._parameters(),
            logprobs=None if self.sampling.top_logprobs is None else self._logprobs,
            prompt_logprobs=self._prompt_logprobs or None,
            tool_calls=tuple(
                ToolCallPart(id=call.id, name=call.name, arguments="".join(pieces))
                for call, pieces in self._tool_calls.values()
            ),
        )

    def _parameters(self) -> Parameters:
        used = msgspec.to_builtins(self.sampling, str_keys=True)
        fields = {name: used[name] for name in Parameters.model_fields}
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
