"""Sends one request through each API, whole and as a stream, and returns both replies in one form."""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
from pydantic_core import from_json

from tests.streams.prescribed import NAME, THINKING_TOKENS

Json = Mapping[str, Any]  # Any: JSON
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}, "ok": {"type": "boolean"}},
    "required": ["city", "ok"],
    "additionalProperties": False,
}


@dataclass(frozen=True)
class Asked:
    """A request in no API's terms. `form` says what the reply must be."""

    message: str
    max_tokens: int
    stop: list[str]
    form: str  # text, schema, required or named
    has_tools: bool
    is_parallel: bool
    thinks: bool
    has_logprobs: bool
    count: int


@dataclass
class Reply:
    """One reply of one or several. `parts` are its texts, thoughts and calls in order."""

    parts: list[list[Any]] = field(default_factory=list)  # Any: kind, key, text
    end: Any = None
    tokens: list[Any] = field(default_factory=list)

    def add(self, kind: str, text: str, key: object = None) -> None:
        if self.parts and self.parts[-1][:2] == [kind, key]:
            self.parts[-1][2] += text
        else:
            self.parts.append([kind, key, text])


@dataclass
class Replies:
    """All that a request gets. Equal requests get equal ones, but for ids, times and cached tokens."""

    by_index: dict[int, Reply] = field(default_factory=dict)
    usage: Any = None

    def __getitem__(self, index: int) -> Reply:
        return self.by_index.setdefault(index, Reply())


Surface = Callable[[httpx.Client, Asked], tuple[Replies, Replies]]


def _both(http: httpx.Client, path: str, body: Json) -> tuple[Any, list[tuple[str, Any]]]:
    whole = http.post(path, json=body)
    assert whole.status_code == 200, (whole.text, body)
    with http.stream("POST", path, json={**body, "stream": True}) as response:
        assert response.status_code == 200
        streamed = list(_frames(response))
    return whole.json(), streamed


def _frames(response: httpx.Response) -> Iterator[tuple[str, Any]]:
    name = ""
    for line in response.iter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: ") and line != "data: [DONE]":
            yield name, json.loads(line.removeprefix("data: "))


def chat_completions(http: httpx.Client, asked: Asked) -> tuple[Replies, Replies]:
    function = {"name": "weather", "parameters": SCHEMA}
    choice: Any = {"required": "required", "named": {"type": "function", "function": {"name": "weather"}}}
    body = {
        "model": NAME,
        "messages": [{"role": "user", "content": asked.message}],
        "temperature": 0,
        "max_tokens": asked.max_tokens,
        "stop": asked.stop,
        "n": asked.count,
        "logprobs": asked.has_logprobs,
        "stream_options": {"include_usage": True},
    }
    if asked.has_tools:
        body |= {
            "tools": [{"type": "function", "function": function}],
            "parallel_tool_calls": asked.is_parallel,
        }
        body |= {"tool_choice": choice.get(asked.form, "auto")}
    if asked.form == "schema":
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}
    if asked.thinks:
        body["reasoning_effort"] = "high"
    whole, chunks = _both(http, "/v1/chat/completions", body)
    first, joined = Replies(usage=_without_cached(whole["usage"])), Replies()
    for each in whole["choices"]:
        reply, message = first[each["index"]], each["message"]
        _add_chat_pieces(reply, message | {"tool_calls": _numbered(message.get("tool_calls", []))})
        reply.end, reply.tokens = each["finish_reason"], _tokens(each["logprobs"])
    for _, chunk in chunks:
        joined.usage = _without_cached(chunk["usage"]) if chunk.get("usage") else joined.usage
        for each in chunk["choices"]:
            reply = joined[each["index"]]
            _add_chat_pieces(reply, each["delta"])
            reply.end = each["finish_reason"] or reply.end
            reply.tokens += _tokens(each["logprobs"])
    for replies in (first, joined):  # this API has no order of text and calls
        for reply in replies.by_index.values():
            reply.parts = _by_kind(reply.parts)
    return first, joined


def _add_chat_pieces(reply: Reply, piece: Json) -> None:
    if piece.get("reasoning_content"):
        reply.add("thinking", piece["reasoning_content"])
    if piece.get("content"):
        reply.add("text", piece["content"])
    for call in piece.get("tool_calls", []):
        reply.add(f"call {call['index']}", call["function"]["arguments"])
        if "name" in call["function"]:
            reply.add(f"name {call['index']}", call["function"]["name"])


def _numbered(calls: list[Any]) -> list[Any]:
    return [{**call, "index": index} for index, call in enumerate(calls)]


def _by_kind(parts: list[list[Any]]) -> list[list[Any]]:
    kinds = sorted({kind for kind, _, _ in parts})
    return [[kind, None, "".join(text for each, _, text in parts if each == kind)] for kind in kinds]


def _tokens(logprobs: Any) -> list[Any]:
    return [] if logprobs is None else [entry["bytes"] for entry in logprobs["content"]]


def _without_cached(usage: Json) -> Json:
    return {
        name: value for name, value in usage.items() if name not in ("prompt_tokens_details", "cached_tokens")
    }


def completions(http: httpx.Client, asked: Asked) -> tuple[Replies, Replies]:
    body: dict[str, Any] = {
        "model": NAME,
        "prompt": asked.message,
        "temperature": 0,
        "max_tokens": asked.max_tokens,
        "stop": asked.stop,
        "n": asked.count,
        "stream_options": {"include_usage": True},
    }
    if asked.has_logprobs:
        body["logprobs"] = 0
    whole, chunks = _both(http, "/v1/completions", body)
    first, joined = Replies(usage=_without_cached(whole["usage"])), Replies()
    for replies, parts in ((first, [whole]), (joined, [chunk for _, chunk in chunks])):
        for part in parts:
            replies.usage = _without_cached(part["usage"]) if part.get("usage") else replies.usage
            for each in part["choices"]:
                reply = replies[each["index"]]
                reply.add("text", each["text"])
                reply.end = each["finish_reason"] or reply.end
                logprobs = each["logprobs"] or {"tokens": [], "text_offset": []}
                reply.tokens += zip(logprobs["tokens"], logprobs["text_offset"], strict=True)
    return first, joined


def messages(http: httpx.Client, asked: Asked) -> tuple[Replies, Replies]:
    body: dict[str, Any] = {
        "model": NAME,
        "messages": [{"role": "user", "content": asked.message}],
        "temperature": 0,
        "max_tokens": asked.max_tokens,
        "stop_sequences": asked.stop,
    }
    if asked.has_tools:
        choice = {"required": {"type": "any"}, "named": {"type": "tool", "name": "weather"}}
        body["tools"] = [{"name": "weather", "input_schema": SCHEMA}]
        body["tool_choice"] = {
            **choice.get(asked.form, {"type": "auto"}),
            "disable_parallel_tool_use": not asked.is_parallel,
        }
    if asked.form == "schema":
        body["output_config"] = {"format": {"type": "json_schema", "schema": SCHEMA}}
    if asked.thinks:
        body["thinking"] = {"type": "enabled", "budget_tokens": 1024}
    whole, stream = _both(http, "/v1/messages", body)
    first, joined = Replies(usage=whole["usage"]["output_tokens"]), Replies()
    first[0].end = [whole["stop_reason"], whole["stop_sequence"]]
    for index, block in enumerate(whole["content"]):
        name = block.get("name", "")
        text = block.get("text", block.get("thinking", ""))
        first[0].parts.append([block["type"] + name, index, block.get("input", text)])
    for name, event in stream:
        if name == "content_block_start":
            block = event["content_block"]
            joined[0].parts.append([block["type"] + block.get("name", ""), event["index"], ""])
        elif name == "content_block_delta":
            delta = event["delta"]
            piece = delta.get("text", "") + delta.get("thinking", "") + delta.get("partial_json", "")
            joined[0].parts[-1][2] += piece
        elif name == "message_delta":
            joined[0].end = [event["delta"]["stop_reason"], event["delta"]["stop_sequence"]]
            joined.usage = event["usage"]["output_tokens"]
    for part in joined[0].parts:
        if part[0].startswith("tool_use"):
            part[2] = from_json(part[2] or "{}", allow_partial=True)
    return first, joined


def native_chat(http: httpx.Client, asked: Asked) -> tuple[Replies, Replies]:
    body: dict[str, Any] = {
        "model_name": NAME,
        "message": asked.message,
        "temperature": 0,
        "max_tokens": asked.max_tokens,
        "stop": asked.stop,
        "think": asked.thinks,
    }
    if asked.thinks:
        body["thinking_budget"] = THINKING_TOKENS
    if asked.has_logprobs:
        body["top_logprobs"] = 0
    if asked.has_tools:
        choice: Json = {"required": "required", "named": {"name": "weather"}}
        body["tools"] = [{"name": "weather", "parameters": SCHEMA}]
        body |= {"tool_choice": choice.get(asked.form, "auto"), "parallel_tool_calls": asked.is_parallel}
    if asked.form == "schema":
        body["response_format"] = {"type": "json_schema", "schema": SCHEMA}
    whole, stream = _both(http, "/api/v1/chat", body)
    first, joined = _native_reply(whole), Replies()
    for name, event in stream:
        if name == "thinking":
            joined[0].add("thinking", event["text"])
        elif name == "delta":
            joined[0].add("text", event["text"])
            joined[0].tokens += [entry["bytes"] for entry in event.get("logprobs") or []]
        elif name == "tool_call":
            joined[0].add(f"call {event['index']} {event['name']}", event["arguments"])
    last_name, last = stream[-1]
    assert last_name == "done"
    ended = _native_reply(last)
    joined[0].end, joined.usage = ended[0].end, ended.usage
    joined[0].parts = _by_kind(joined[0].parts)
    assert ended == joined
    return first, joined


def _native_reply(body: Json) -> Replies:
    replies = Replies(usage=_without_cached(body["usage"]))
    reply = replies[0]
    if body["thinking"]:
        reply.add("thinking", body["thinking"])
    if body["response"]:
        reply.add("text", body["response"])
    for index, call in enumerate(body["tool_calls"] or []):
        reply.add(f"call {index} {call['name']}", call["arguments"])
    reply.end = body["finish_reason"]
    reply.tokens = [entry["bytes"] for entry in body["logprobs"] or []]
    reply.parts = _by_kind(reply.parts)
    return replies


SURFACES: dict[str, Surface] = {
    "/v1/chat/completions": chat_completions,
    "/v1/completions": completions,
    "/v1/messages": messages,
    "/api/v1/chat": native_chat,
}
