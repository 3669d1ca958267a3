"""Turns the chunks of a streamed reply of OpenAI's API into deltas and the facts of the reply's end."""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.core.literals import FinishReason
from app.engine.ipc.messages import Delta, TokenCounts, TokenLogprob, ToolCallRef

ReplyChunk = Mapping[str, Any]  # Any: JSON values

_FINISH_REASONS: Mapping[str, FinishReason] = {"length": "length", "content_filter": "interrupted"}
NO_TOKEN_ID = -1  # the other server does not tell the ids of tokens


@dataclass(slots=True)
class ReplyStream:
    """Reads the chunks of one reply. Until the other server reports `usage`, each chunk counts as a token."""

    finish_reason: FinishReason | None = None
    usage: ReplyChunk | None = None
    matched_stop: str | None = None
    _chunks: int = 0
    _calls: dict[int, ToolCallRef] = field(default_factory=dict)

    def read(self, chunk: ReplyChunk) -> Iterator[Delta]:
        """Yields the deltas of one chunk."""
        self.usage = chunk.get("usage") or self.usage
        for choice in chunk.get("choices") or ():
            delta = choice.get("delta") or {}
            deltas = [*self._texts(choice, delta), *self._tool_calls(delta)]
            self._chunks += bool(deltas)
            yield from deltas
            if (reason := choice.get("finish_reason")) is not None:
                self.finish_reason = _FINISH_REASONS.get(reason, "stop")
                matched = choice.get("stop_reason") or choice.get("matched_stop")  # of vLLM, of SGLang
                self.matched_stop = matched if isinstance(matched, str) else None  # else a token's id

    def counts(self) -> TokenCounts:
        """Returns the counts of the reply. The prompt has 0 tokens if the other server does not say."""
        usage = self.usage or {}
        prompt = usage.get("prompt_tokens_details") or {}
        completion = usage.get("completion_tokens_details") or {}
        return TokenCounts(
            usage.get("prompt_tokens") or 0,
            self._tokens,
            prompt.get("cached_tokens") or 0,
            completion.get("reasoning_tokens") or 0,
        )

    @property
    def _tokens(self) -> int:
        return int((self.usage or {}).get("completion_tokens", self._chunks))

    def _texts(self, choice: ReplyChunk, delta: ReplyChunk) -> Iterator[Delta]:
        tokens = self._tokens + 1
        if thinking := delta.get("reasoning_content") or delta.get("reasoning"):
            yield Delta("", thinking, tokens, "thinking")
        if text := delta.get("content") or choice.get("text"):
            yield Delta("", text, tokens, logprobs=tuple(_logprobs(choice.get("logprobs"))))

    def _tool_calls(self, delta: ReplyChunk) -> Iterator[Delta]:
        for position, call in enumerate(delta.get("tool_calls") or ()):
            function = call.get("function") or {}
            index = call.get("index", position)
            is_new = index not in self._calls
            if is_new:
                name = function.get("name") or ""
                self._calls[index] = ToolCallRef(index, call.get("id") or f"call_{uuid.uuid4().hex}", name)
            if is_new or function.get("arguments"):
                yield Delta(
                    "",
                    function.get("arguments") or "",
                    self._tokens + 1,
                    "tool_call",
                    tool_call=self._calls[index],
                )


def _logprobs(logprobs: ReplyChunk | None) -> Iterator[TokenLogprob]:
    for entry in (logprobs or {}).get("content") or ():
        top = tuple(_token(other) for other in entry.get("top_logprobs") or ())
        yield _token(entry, top)


def _token(entry: ReplyChunk, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    given = entry.get("bytes")
    content = entry["token"].encode() if given is None else bytes(given)
    return TokenLogprob(NO_TOKEN_ID, content, entry["logprob"], top)
