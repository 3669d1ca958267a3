"""The targets of the loads: the engine alone, the server over HTTP, or a server with OpenAI's chat API.

All of them decode greedily.
"""

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Protocol

import httpx
from httpx_sse import aconnect_sse

from app.core.deadline import Deadline
from app.core.literals import Quantization
from app.engine.backend import ModelInput
from app.engine.ipc.client import WorkerClient
from app.engine.ipc.launcher import WorkerLauncher
from app.engine.ipc.messages import (
    Accepted,
    ChatMessage,
    Delta,
    Finished,
    SamplingParams,
    WorkerSpec,
)
from tests.benchmarks.models import BenchmarkModel
from tests.benchmarks.traces import Trace

ACTIVE_REQUESTS = 32  # that may decode together, in every target
SILENCE_S = 600.0
_GREEDY = {"temperature": 0, "repetition_penalty": 1}
_NO_FIELDS: Mapping[str, object] = {}


class Dialogue(Protocol):
    async def say(self, message: str, max_tokens: int, trace: Trace) -> None:
        """Sends the next message and records the reply in `trace`. Raises DomainError or httpx.HTTPError."""


class Target(Protocol):
    name: str

    def dialogue(self) -> Dialogue: ...


class EngineDialogue:
    def __init__(self, client: WorkerClient) -> None:
        self._client = client
        self._messages: tuple[ChatMessage, ...] = ()

    async def say(self, message: str, max_tokens: int, trace: Trace) -> None:
        self._messages += (ChatMessage("user", message),)
        parts: list[str] = []
        counted = 0
        sampling = SamplingParams(max_tokens=max_tokens, temperature=0)
        model_input = ModelInput(messages=self._messages)
        async with aclosing(
            self._client.generate(model_input, sampling, Deadline.after(SILENCE_S))
        ) as events:
            async for event in events:
                match event:
                    case Accepted():
                        trace.prompt_tokens = event.prompt_tokens
                    case Delta():
                        trace.piece(event.tokens - counted)
                        counted = event.tokens
                        parts.append(event.text)
                    case Finished(usage=usage):
                        trace.reported_tokens, trace.cached_tokens = (
                            usage.completion_tokens,
                            usage.cached_tokens,
                        )
        self._messages += (ChatMessage("assistant", "".join(parts)),)


class EngineTarget:
    """The engine in its worker process, without HTTP."""

    name = "engine"

    def __init__(self, client: WorkerClient) -> None:
        self.client = client

    def dialogue(self) -> EngineDialogue:
        return EngineDialogue(self.client)


@asynccontextmanager
async def engine(model: BenchmarkModel, quantization: Quantization) -> AsyncIterator[EngineTarget]:
    spec = WorkerSpec(
        model_path=str(model.folder),
        model_name=model.name,
        quantization=quantization,
        context_length=model.context_length,
        max_active_requests=ACTIVE_REQUESTS,
        chat_template=model.source.chat_template,
        stop=model.source.stop,
    )
    launcher = WorkerLauncher()
    try:
        client = await WorkerClient.start(spec, launcher)
        try:
            yield EngineTarget(client)
        finally:
            await client.close()
    finally:
        launcher.close()


class ServerDialogue:
    def __init__(self, http: httpx.AsyncClient, fields: Mapping[str, object]) -> None:
        self._http = http
        self._known: dict[str, object] = dict(fields)

    async def say(self, message: str, max_tokens: int, trace: Trace) -> None:
        body = {"message": message, "max_tokens": max_tokens, "stream": True, **_GREEDY, **self._known}
        async with aconnect_sse(self._http, "POST", "/api/v1/chat", json=body) as source:
            await _check(source.response)
            async for frame in source.aiter_sse():
                match frame.event:
                    case "delta":
                        trace.piece(_words(json.loads(frame.data)["text"]))
                    case "done":
                        self._note_end(json.loads(frame.data), trace)
                    case "error":
                        raise httpx.RemoteProtocolError(frame.data)

    def _note_end(self, reply: dict[str, Any], trace: Trace) -> None:  # Any: a reply as JSON
        usage = reply["usage"]
        trace.prompt_tokens, trace.cached_tokens = usage["prompt_tokens"], usage["cached_tokens"]
        trace.reported_tokens = usage["completion_tokens"]
        self._known["conversation_id"] = reply["conversation_id"]


class ServerTarget:
    """This project's server. Every request contains `fields` besides the message."""

    name = "HTTP"

    def __init__(self, http: httpx.AsyncClient, fields: Mapping[str, object] = _NO_FIELDS) -> None:
        self._http = http
        self._fields = fields

    def dialogue(self) -> ServerDialogue:
        return ServerDialogue(self._http, self._fields)


class PeerDialogue:
    def __init__(self, http: httpx.AsyncClient, fields: dict[str, object]) -> None:
        self._http = http
        self._fields = fields
        self._messages: list[dict[str, str]] = []

    async def say(self, message: str, max_tokens: int, trace: Trace) -> None:
        self._messages.append({"role": "user", "content": message})
        fixed = {"max_tokens": max_tokens, "temperature": 0, "stream": True, **self._fields}
        body = {"messages": self._messages, **fixed}
        parts: list[str] = []
        async with aconnect_sse(self._http, "POST", "/v1/chat/completions", json=body) as source:
            await _check(source.response)
            async for frame in source.aiter_sse():
                if frame.data == "[DONE]":
                    break
                parts.append(_piece(json.loads(frame.data), trace))
        self._messages.append({"role": "assistant", "content": "".join(parts)})


class PeerTarget:
    """Another server. Every request contains `fields` besides the conversation."""

    def __init__(self, name: str, http: httpx.AsyncClient, fields: dict[str, object]) -> None:
        self.name = name
        self._http = http
        self._fields = fields

    def dialogue(self) -> PeerDialogue:
        return PeerDialogue(self._http, self._fields)


def connection(url: str) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=2 * ACTIVE_REQUESTS)
    return httpx.AsyncClient(base_url=url, timeout=SILENCE_S, limits=limits, trust_env=False)


def _piece(chunk: dict[str, Any], trace: Trace) -> str:  # Any: a chunk as JSON
    if (usage := chunk.get("usage")) is not None:
        trace.prompt_tokens, trace.reported_tokens = usage["prompt_tokens"], usage["completion_tokens"]
    choices = chunk.get("choices") or [{}]
    text = (choices[0].get("delta") or {}).get("content") or ""
    if text:
        trace.piece(_words(text))
    return str(text)


def _words(text: str) -> int:
    """The tokens of a piece of a generated model's text, until the end of the reply reports their number."""
    return max(1, text.count(" "))


async def _check(response: httpx.Response) -> None:
    if not response.is_success:
        await response.aread()
        raise httpx.HTTPStatusError(response.text, request=response.request, response=response)
