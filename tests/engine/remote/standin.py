"""A stand-in for a server that speaks OpenAI's API: it answers as a test asks, and keeps what it was sent."""

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from tests.loopback import on_loopback

Json = dict[str, Any]  # Any: JSON values
KEY = "sk-of-the-upstream"


def piece(finish_reason: str | None = None, **delta: Any) -> Json:
    """A chunk of a streamed reply."""
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}


def usage(prompt: int, completion: int, cached: int = 0) -> Json:
    details = {"cached_tokens": cached}
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": details}
    return {"choices": [], "usage": counts}


HELLO: list[Json] = [piece(content="Hello"), piece(content=" there"), piece("stop"), usage(9, 3, 4)]


@dataclass
class StandInUpstream:
    """One model. With `window`, a chat of more than so many words is refused as too long."""

    owner: str = "vllm"
    model: str = "big"
    card: Json = field(default_factory=dict)
    chunks: list[Json] = field(default_factory=lambda: list(HELLO))
    refusals: list[tuple[int, Any]] = field(default_factory=list)  # status and body of the next answers
    refusal_headers: dict[str, str] = field(default_factory=lambda: {"retry-after": "7"})
    window: int | None = None
    is_endless: bool = False  # it repeats its first chunk until the client leaves
    pause_s: float = 0.005  # between the repeated chunks
    last_chunks: list[Json] = field(default_factory=list)  # once it is no longer endless
    breaks_off: bool = False
    first_streams: list[list[Json]] = field(default_factory=list)  # the chunks of the next replies
    silent_after: int | None = None  # so many chunks; from then on it answers nobody
    is_silent: bool = False
    says_done: bool = True
    raw: bytes | None = None  # sent as it is instead of the chunks
    media_type: str = "text/event-stream"
    stream_headers: dict[str, str] = field(default_factory=dict)
    answers: dict[str, Any] = field(default_factory=dict)  # JSON by path, beside the usual routes
    needs_key: bool = False
    url: str = ""
    bodies: list[Json] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)  # of the requests for replies
    count: Any = None  # the answer to the question for it, instead of the true one
    counted: list[Json] = field(default_factory=list)
    has_left: threading.Event = field(default_factory=threading.Event)  # the client, amid a reply

    def app(self) -> Starlette:
        routes = [
            Route("/v1/models", self._models),
            Route("/v1/chat/completions", self._reply, methods=["POST"]),
            Route("/v1/completions", self._reply, methods=["POST"]),
            Route("/tokenize", self._tokenize, methods=["POST"]),
            Route("/apply-template", self._template, methods=["POST"]),
            Route("/{path:path}", self._other),
        ]
        return Starlette(routes=routes)

    async def _other(self, request: Request) -> Response:
        await self._silence()
        path = request.url.path
        return JSONResponse(self.answers[path]) if path in self.answers else Response(status_code=404)

    async def _models(self, request: Request) -> Response:
        await self._silence()
        if "/v1/models" in self.answers:
            return JSONResponse(*self.answers["/v1/models"])
        if self.needs_key and request.headers.get("authorization") != f"Bearer {KEY}":
            return JSONResponse({"error": {"message": f"wrong key, not {KEY}"}}, 401)
        card = {"id": self.model, "object": "model", "owned_by": self.owner, **self.card}
        return JSONResponse({"object": "list", "data": [card]})

    async def _reply(self, request: Request) -> Response:
        body = await request.json()
        self.bodies.append(body)
        self.headers.append(dict(request.headers))
        if self.refusals:
            status, content = self.refusals.pop(0)
            return JSONResponse(content, status, headers=self.refusal_headers)
        if self.window is not None and (words := _words(body)) > self.window:
            message = f"This model's maximum context length is {self.window} tokens, not {words}."
            return JSONResponse({"error": {"message": message, "code": 400}}, 400)
        return StreamingResponse(self._stream(), media_type=self.media_type, headers=self.stream_headers)

    async def _stream(self) -> AsyncIterator[bytes]:
        try:
            if self.raw is not None:
                yield self.raw
                return
            for position, chunk in enumerate(
                self.first_streams.pop(0) if self.first_streams else self.chunks
            ):
                self.is_silent = position == self.silent_after
                await self._silence()
                yield f"data: {json.dumps(chunk, ensure_ascii=False)}\n\n".encode()
            while self.is_endless:
                yield f"data: {json.dumps(self.chunks[0])}\n\n".encode()
                await asyncio.sleep(self.pause_s)
            for chunk in self.last_chunks:
                yield f"data: {json.dumps(chunk)}\n\n".encode()
            if self.breaks_off:
                raise ConnectionAbortedError("as the test asked")
            if self.says_done:
                yield b"data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.has_left.set()
            raise

    async def _silence(self) -> None:
        if self.is_silent:
            await asyncio.Event().wait()

    async def _tokenize(self, request: Request) -> Response:
        body = await request.json()
        self.counted.append(body)
        if self.count is not None:
            return JSONResponse(*self.count)
        if "content" in body:
            return JSONResponse({"tokens": body["content"].split()})
        return JSONResponse({"count": _words(body), "max_model_len": self.window})

    async def _template(self, request: Request) -> Response:
        messages = (await request.json())["messages"]
        return JSONResponse({"prompt": " ".join(message["content"] for message in messages)})


def _words(body: Json) -> int:
    """A word is a token of the stand-in."""
    messages = body.get("messages") or [{"content": body.get("prompt")}]
    return sum(len((message["content"] or "").split()) for message in messages) + (
        body.get("max_tokens") or 0
    )


@contextmanager
def running_upstream(upstream: StandInUpstream, port: int = 0) -> Iterator[StandInUpstream]:
    """Serves it on a port of loopback; 0 means a free one."""
    with on_loopback(upstream.app(), port) as url:
        upstream.url = f"{url}/v1"
        yield upstream
