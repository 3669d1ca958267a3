"""Sends a reply through Ray's proxy, and ends it with an error if the replica did not."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from enum import Enum, auto

from pydantic import BaseModel
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from app.api.anthropic.events import encode as encode_anthropic
from app.api.errors import error_body, error_response
from app.api.native.events import encode as encode_native
from app.api.openai.events import encode as encode_openai
from app.api.openai.responses.events import encode as encode_response
from app.api.paths import ANTHROPIC_PREFIX, OPENAI_PREFIX, is_below
from app.core.errors import DeadlineExceeded, DomainError, ModelUnavailable, QueueFull, WorkerDied

_LAST_WRITE_S = 1.0  # a client that does not read cannot hold the request any longer
_DEAD = "The replica of the server that was answering has ended."


class Sent(Enum):
    """How much of a reply has been sent."""

    NOTHING = auto()
    HEAD = auto()  # of a whole reply, whose length its head may tell
    STREAM = auto()  # the head of a stream, and perhaps some of its events
    ALL = auto()


class Reply:
    """The `send` of one request. The request's owner calls `finish` at the end.

    An answer of Ray's own is not sent: its status says what has failed.
    """

    def __init__(self, path: str, request_id: str, send: Send) -> None:
        self.path = path
        self.request_id = request_id
        self.send = send
        self.sent = Sent.NOTHING
        self.failure: int | None = None  # the status of an answer of Ray's own

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self.request_id  # once: Ray adds it to the application's
            self.failure = _failure_of_ray(message["status"], headers)
            if self.failure is None:
                self.sent = Sent.STREAM if _is_stream(headers) else Sent.HEAD
        if self.failure is not None:
            return
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.sent = Sent.ALL
        await self.send(message)

    @property
    def has_died(self) -> bool:
        """Whether the replica has ended before it answered."""
        return self.sent is Sent.NOTHING and self.failure in (None, 500)

    async def finish(self, scope: Scope, receive: Receive) -> None:
        """Sends an error if the reply has not ended: as the reply, or as the last event of a stream."""
        if self.sent is Sent.NOTHING:
            response = error_response(_error_of(self.failure))
            response.headers["x-request-id"] = self.request_id
            await response(scope, receive, self.send)
        elif self.sent is Sent.STREAM:
            with suppress(TimeoutError):
                async with asyncio.timeout(_LAST_WRITE_S):
                    await self._end_stream()

    async def _end_stream(self) -> None:
        frame = _encoder_of(self.path)(error_body(WorkerDied(_DEAD, retry_after=1)), None)
        await self.send({"type": "http.response.body", "body": frame, "more_body": True})
        await self.send({"type": "http.response.body", "body": b"", "more_body": False})


def _is_stream(headers: Headers) -> bool:
    return headers.get("content-type", "").startswith("text/event-stream")


def _failure_of_ray(status: int, headers: Headers) -> int | None:
    """Returns the status if the answer is Ray's own: the application writes its errors as JSON."""
    is_text = headers.get("content-type", "").startswith("text/plain")
    return status if status >= 400 and is_text else None


def _error_of(status: int | None) -> DomainError:
    match status:
        case 404:
            return ModelUnavailable("The server is not deployed.", retry_after=2)
        case 408:
            return DeadlineExceeded("The request took too long.")
        case 503:
            return QueueFull("All replicas of the server are busy.", retry_after=1)
    return WorkerDied(_DEAD, retry_after=1)


def _encoder_of(path: str) -> Callable[[BaseModel, int | None], bytes]:
    if is_below(path, ANTHROPIC_PREFIX):
        return encode_anthropic
    if is_below(path, f"{OPENAI_PREFIX}/responses"):
        return encode_response
    return encode_openai if is_below(path, OPENAI_PREFIX) else encode_native
