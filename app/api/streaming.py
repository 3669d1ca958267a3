"""Turns events into an HTTP reply: server-sent events, or the collected reply as JSON.

The events come from a generator, or from a reader of a turn, in one task from the first to the last. No byte
is sent before the first event, so an earlier error becomes a status code. A client that disconnects cancels
the task; a client that stops reading loses its stream at its request's deadline. Either way their source is
closed.
"""

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from typing import Any, TypeVar

from fastapi.sse import format_sse_event
from pydantic import BaseModel
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from app.api.errors import error_body
from app.core.deadline import Deadline
from app.core.telemetry.logging import to_domain_error
from app.models.schemas import KEEP_ALIVE_S
from app.models.turns.turn_log import EventReader, TurnRecord

logger = logging.getLogger(__name__)

_KEEP_ALIVE = format_sse_event(comment="keep-alive")
_HEADERS = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}

# These characters end no line in SSE, but they do for many readers, such as Python's splitlines.
_LINE_ENDS = str.maketrans({"\x85": r"\u0085", "\u2028": r"\u2028", "\u2029": r"\u2029"})

Events = AsyncGenerator[BaseModel, None] | EventReader
Encode = Callable[[BaseModel, int | None], bytes]
T = TypeVar("T")


def json_frame(data: str, name: str | None = None, event_id: int | None = None) -> bytes:
    """Returns the frame of an event whose data is this JSON text. All APIs write their events with it."""
    shown_id = None if event_id is None else str(event_id)
    return format_sse_event(event=name, data_str=data.translate(_LINE_ENDS), id=shown_id)


def respond(
    events: Events,
    stream: bool,
    encode: Encode,
    deadline: Deadline | None,
    keep_alive_s: float = KEEP_ALIVE_S,
    after: int = 0,
    keep_alive: bytes = _KEEP_ALIVE,
) -> Response:
    """Returns the response for `events`, of which the last is the whole reply.

    An error from `events` reaches the error handlers or, once a stream has begun, becomes its last event.
    `encode` turns an event, and its id if it has one, into the bytes of its frame. Every write ends by the
    `deadline`. A load has none, because its download may take any time. `after` is the id of the last event
    that the client has read in an earlier stream of the same turn; 0: none. `keep_alive` is the frame that
    is sent when nothing else was for a while.
    """
    if stream:
        return EventStream(events, encode, deadline, keep_alive_s, after, keep_alive)
    return CollectedReply(events, deadline)


class ReaderStalled(Exception):
    """The client did not read the reply before the deadline."""


class CollectedReply(Response):
    """Sends the last event as JSON."""

    media_type = "application/json"

    def __init__(self, events: Events, deadline: Deadline | None) -> None:
        super().__init__()
        self.events = events
        self.deadline = deadline

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        collecting = await _until_disconnected(receive, _last(self.events))
        if collecting.cancelled():
            return
        reply = Response(collecting.result().model_dump_json(), media_type=self.media_type)
        try:
            await _write(reply(scope, receive, send), self.deadline)
        except TimeoutError:
            _log_stalled()


class EventStream(Response):
    """Sends each event as a frame, and a comment whenever nothing was sent for `keep_alive_s`.

    If there are no events at all, the status is 204, which tells a browser's EventSource not to come back.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: Events,
        encode: Encode,
        deadline: Deadline | None,
        keep_alive_s: float,
        after: int,
        keep_alive: bytes,
    ) -> None:
        super().__init__(headers=_HEADERS)
        del self.headers["content-length"]
        self.events = events
        self.encode = encode
        self.deadline = deadline
        self.keep_alive_s = keep_alive_s
        self.keep_alive = keep_alive
        self.has_begun = False
        self.last_id = after if after > 0 else None
        self.last_frame_at = 0.0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        sending = await _until_disconnected(receive, self._send_events(send))
        if sending.cancelled():
            return
        error = sending.exception()
        is_first = not self.has_begun and self.last_id is None
        if error is not None and is_first:
            raise error
        if error is None and not self.has_begun:
            return await Response(status_code=204)(scope, receive, send)
        try:
            if isinstance(error, ReaderStalled):
                raise error
            if error is not None:
                await self._send_frame(send, self._encode_error(error))
            await self._send(send, {"type": "http.response.body", "body": b"", "more_body": False})
        except ReaderStalled:
            _log_stalled()  # uvicorn closes the connection, because the reply is incomplete

    async def _send_events(self, send: Send) -> None:
        keeping_alive: asyncio.Task[None] | None = None
        try:
            async with aclosing(self.events):
                async for event in self.events:
                    await self._send_frame(send, self._encode(event))
                    keeping_alive = keeping_alive or asyncio.create_task(self._keep_alive(send))
        finally:
            await _cancel(keeping_alive)

    def _encode(self, event: BaseModel | TurnRecord) -> bytes:
        if not isinstance(event, TurnRecord):
            return self.encode(event, None)
        self.last_id = event.id
        return self.encode(event.event, event.id)

    def _encode_error(self, error: BaseException) -> bytes:
        body = error_body(to_domain_error(error))
        return self.encode(body, None if self.last_id is None else self.last_id + 1)

    async def _keep_alive(self, send: Send) -> None:
        clock = asyncio.get_running_loop().time
        while True:
            await asyncio.sleep(self.last_frame_at + self.keep_alive_s - clock())
            if clock() >= self.last_frame_at + self.keep_alive_s:
                await self._send_frame(send, self.keep_alive)

    async def _send_frame(self, send: Send, frame: bytes) -> None:
        if not self.has_begun:
            self.has_begun = True
            await self._send(
                send, {"type": "http.response.start", "status": 200, "headers": self.raw_headers}
            )
        self.last_frame_at = asyncio.get_running_loop().time()
        await self._send(send, {"type": "http.response.body", "body": frame, "more_body": True})

    async def _send(self, send: Send, message: Message) -> None:
        try:
            await _write(send(message), self.deadline)
        except TimeoutError:
            raise ReaderStalled from None


async def _write(writing: Awaitable[None], deadline: Deadline | None) -> None:
    """Awaits one write. After the deadline, it still succeeds if it need not wait."""
    if deadline is None:
        await writing
    else:
        await deadline.finish(writing)


def _log_stalled() -> None:
    logger.warning("the client stopped reading, so its reply was cut off at the request's deadline")


async def _last(events: Events) -> BaseModel:
    last: BaseModel | TurnRecord | None = None
    async with aclosing(events):
        async for event in events:
            last = event
    assert last is not None, "events end with the reply"
    return last.event if isinstance(last, TurnRecord) else last


async def _until_disconnected(receive: Receive, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """Runs `work` until it ends or the client disconnects. Returns its task, ended or cancelled."""
    task = asyncio.create_task(work)
    disconnected = asyncio.create_task(_disconnect(receive))
    try:
        await asyncio.wait((task, disconnected), return_when=asyncio.FIRST_COMPLETED)
    finally:
        await _cancel(task, disconnected)
    return task


async def _disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _cancel(*tasks: asyncio.Task[Any] | None) -> None:
    running = [task for task in tasks if task is not None]
    for task in running:
        task.cancel()
    await asyncio.gather(*running, return_exceptions=True)
