"""Owns how a stream of events becomes an answer: server-sent events, or the collected reply.

Both run the generator in one task from its first step to its last. The first event comes before the first
byte, so that an error known by then is a status code. A client that leaves cancels the task, and its work.
"""

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Mapping
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi.sse import format_sse_event
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.errors import error_body, to_domain_error
from app.models.schemas import DeltaEvent, ErrorResponse, LoadProgress, StartEvent, ThinkingEvent

KEEP_ALIVE_S = 10.0

_EVENT_NAMES: Mapping[type[BaseModel], str] = {
    StartEvent: "start",
    DeltaEvent: "delta",
    ThinkingEvent: "thinking",
    LoadProgress: "progress",
    ErrorResponse: "error",
}
# No line ends in SSE, but for many a client's line reader (Python's splitlines among them).
_LINE_ENDS = str.maketrans({"\x85": r"\u0085", "\u2028": r"\u2028", "\u2029": r"\u2029"})
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

Events = AsyncGenerator[Any, None]  # Any: a union of wire models, another for each route
T = TypeVar("T")


def respond(events: Events, stream: bool, keep_alive_s: float = KEEP_ALIVE_S) -> Response:
    """The answer made of `events`, whose last one is the whole reply.

    What they raise reaches the error table; once a stream has begun, it is one `error` event instead.
    """
    return EventStream(events, keep_alive_s) if stream else CollectedReply(events)


class CollectedReply(Response):
    """The last event as JSON."""

    media_type = "application/json"

    def __init__(self, events: Events) -> None:
        super().__init__()
        self.events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        collecting = await _until_gone(receive, _last(self.events))
        if not collecting.cancelled():
            reply = Response(collecting.result().model_dump_json(), media_type=self.media_type)
            await reply(scope, receive, send)


class EventStream(Response):
    """Each event as a frame, and a comment whenever nothing came for `keep_alive_s`."""

    media_type = "text/event-stream"

    def __init__(self, events: Events, keep_alive_s: float) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self.events = events
        self.keep_alive_s = keep_alive_s
        self.has_begun = False
        self.last_frame_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = await _until_gone(receive, self._send_events(send))
        if sending.cancelled():
            return
        error = sending.exception()
        if error is not None and not self.has_begun:
            raise error
        if error is not None:
            await self._send(send, _frame(error_body(to_domain_error(error))))
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_events(self, send: Send) -> None:
        keeping_alive: asyncio.Task[None] | None = None
        try:
            async with aclosing(self.events):
                async for event in self.events:
                    await self._send(send, _frame(event))
                    keeping_alive = keeping_alive or asyncio.create_task(self._keep_alive(send))
        finally:
            await _cancel(keeping_alive)

    async def _keep_alive(self, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self.last_frame_at + self.keep_alive_s - clock())
            if clock() >= self.last_frame_at + self.keep_alive_s:
                await self._send(send, format_sse_event(comment="keep-alive"))

    async def _send(self, send: Send, frame: bytes) -> None:
        if not self.has_begun:
            self.has_begun = True
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        self.last_frame_at = asyncio.get_running_loop().time()
        await send({"type": "http.response.body", "body": frame, "more_body": True})


def _frame(event: BaseModel) -> bytes:
    name = _EVENT_NAMES.get(type(event), "done")
    data = event.model_dump_json(exclude_none=name == "error").translate(_LINE_ENDS)
    return format_sse_event(event=name, data_str=data)


async def _last(events: Events) -> BaseModel:
    last: BaseModel | None = None
    async with aclosing(events):
        async for event in events:
            last = event
    assert last is not None, "a service's generator ends with its reply"
    return last


async def _until_gone(receive: Receive, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Runs `work` to its end, or until the client leaves: then it was cancelled, and has ended too."""
    task = asyncio.create_task(work)
    gone = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancel(task, gone)
    return task


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: asyncio.Task[Any] | None) -> None:
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
