"""Turns the chunks of a streamed reply of OpenAI's API into deltas and the facts of the reply's end."""

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from app.core.literals import FinishReason
from app.engine.ipc.messages import Delta, TokenCounts, TokenLogprob, ToolCallRef

ReplyChunk = Mapping[str, Any]  # Any: JSON values

_FINISH_REASONS: Mapping[str, FinishReason] = {
    "length": "length",
    "content_filter": "interrupted",
    "abort": "interrupted",  # of vLLM and SGLang
    "error": "interrupted",  # of vLLM
}
_MAX_COUNT = 2**31  # of tokens
NO_TOKEN_ID = -1  # the other server does not report the ids of tokens


@dataclass(slots=True)
class ReplyStream:
    """Reads the chunks of one reply. Until the other server reports `usage`, each chunk counts as a token.

    Of the tokens in another one's place, it keeps `max_top_logprobs`; None keeps all.
    """

    max_top_logprobs: int | None = None
    finish_reason: FinishReason | None = None
    usage: ReplyChunk | None = None
    matched_stop: str | None = None
    _chunks: int = 0
    _calls: dict[int, ToolCallRef] = field(default_factory=dict)  # the newest of each of the server's indexes
    _begun_calls: int = 0

    def read(self, chunk: ReplyChunk) -> Iterator[Delta]:
        """Yields the deltas of one chunk."""
        self.usage = _object(chunk.get("usage")) or self.usage
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
        prompt = _object(usage.get("prompt_tokens_details"))
        completion = (
            _object(usage.get("completion_tokens_details")) or usage
        )  # SGLang has them in `usage` itself
        return TokenCounts(
            _count(usage, "prompt_tokens"),
            self._tokens,
            _count(prompt, "cached_tokens"),
            _count(completion, "reasoning_tokens"),
        )

    @property
    def _tokens(self) -> int:
        return _count(self.usage or {}, "completion_tokens", self._chunks)

    def _texts(self, choice: ReplyChunk, delta: ReplyChunk) -> Iterator[Delta]:
        tokens = self._tokens + 1
        if thinking := _text(delta.get("reasoning_content") or delta.get("reasoning")):
            yield Delta("", thinking, tokens, "thinking")
        logprobs = tuple(_logprobs(choice.get("logprobs"), self.max_top_logprobs))
        if (text := _text(delta.get("content") or choice.get("text"))) or logprobs:
            yield Delta("", text, tokens, logprobs=logprobs)

    def _tool_calls(self, delta: ReplyChunk) -> Iterator[Delta]:
        calls = delta.get("tool_calls") or ()
        for position, call in enumerate([calls] if isinstance(calls, dict) else calls):  # TGI sends only one
            ref, is_new = self._call(call, position)
            arguments = _text((call.get("function") or {}).get("arguments"))
            if is_new or arguments:
                yield Delta("", arguments, self._tokens + 1, "tool_call", tool_call=ref)

    def _call(self, call: ReplyChunk, position: int) -> tuple[ToolCallRef, bool]:
        """Returns the call that the piece belongs to, and whether it is new."""
        index = position if call.get("index") is None else call["index"]
        known, given_id = self._calls.get(index), call.get("id")
        if known is not None and given_id in (None, "", known.id):
            return known, False
        name = _text((call.get("function") or {}).get("name"))
        ref = ToolCallRef(self._begun_calls, given_id or f"call_{uuid.uuid4().hex}", name)
        self._begun_calls += 1
        self._calls[index] = ref  # Ollama gives all calls of a reply the same index
        return ref, True


def _text(value: Any) -> str:  # Any: JSON
    """Returns the text, an empty one for null. Raises TypeError for anything else."""
    if value is not None and not isinstance(value, str):
        raise TypeError("not a text")
    return value or ""


def _object(value: Any) -> ReplyChunk:  # Any: JSON
    return value if isinstance(value, dict) else {}


def _count(usage: ReplyChunk, name: str, default: int = 0) -> int:
    value = usage.get(name)
    return value if type(value) is int and 0 <= value <= _MAX_COUNT else default


def _logprobs(logprobs: ReplyChunk | None, max_top: int | None) -> Iterator[TokenLogprob]:
    entries = logprobs or {}
    for entry in entries.get("content") or _of_completion(entries):
        top = tuple(_token(other) for other in entry.get("top_logprobs") or ())
        yield _token(entry, top[:max_top])


def _of_completion(logprobs: ReplyChunk) -> Iterator[ReplyChunk]:
    """Yields the tokens of a completion, whose facts are in parallel lists, in the form of a chat's."""
    tokens, values = logprobs.get("tokens") or (), logprobs.get("token_logprobs") or ()
    for token, value, top in zip(
        tokens, values, logprobs.get("top_logprobs") or [{}] * len(tokens), strict=True
    ):
        others = [{"token": other, "logprob": likely} for other, likely in (top or {}).items()]
        yield {"token": token, "logprob": value, "top_logprobs": others}


def _token(entry: ReplyChunk, top: tuple[TokenLogprob, ...] = ()) -> TokenLogprob:
    given = entry.get("bytes")
    content = entry["token"].encode() if given is None else bytes(given)
    return TokenLogprob(NO_TOKEN_ID, content, entry["logprob"], top)
