"""Reads the server-sent events of a remote engine's reply as JSON objects."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress

import httpx
from httpx_sse import EventSource, ServerSentEvent, SSEError

from app.core.deadline import Deadline
from app.core.errors import DeadlineExceeded
from app.engine.remote.connection import read_start
from app.engine.remote.failures import FailureReader, parse_json
from app.engine.remote.reply_stream import ReplyChunk
from app.engine.remote.waits import OpenWaits

_END = "[DONE]"
_MAX_ERROR_BYTES = 64_000
_MAX_EVENT_BYTES = 8_000_000


class ChunkReader:
    """Reads the answers of the remote engine of one model."""

    def __init__(self, failures: FailureReader, waits: OpenWaits) -> None:
        self._failures = failures
        self._waits = waits

    async def chunks(self, response: httpx.Response, deadline: Deadline) -> AsyncGenerator[ReplyChunk, None]:
        """Yields the chunks of a reply, up to its end.

        Raises:
            WorkerDied: the connection broke off.
            ContextOverflow: the engine reported that the prompt is too long.
            ModelUnavailable: the engine reported another error, or sent something else than chunks.
            DeadlineExceeded, ShuttingDown.
        """
        response.stream = stream = _LimitedStream(response.stream)
        async with aclosing(EventSource(response).aiter_sse()) as events:
            while (event := await self._next(events, deadline)) is not None and event.data != _END:
                stream.begin_event()
                yield self._parsed(event.data)

    async def refusal(self, response: httpx.Response, deadline: Deadline) -> bytes:
        """Returns the start of an answer that is no success, as far as it arrives in time."""
        with suppress(httpx.HTTPError, DeadlineExceeded):
            async with self._waits.until(deadline):
                return await read_start(response, _MAX_ERROR_BYTES)
        return b""

    async def _next(
        self, events: AsyncGenerator[ServerSentEvent, None], deadline: Deadline
    ) -> ServerSentEvent | None:
        try:
            async with self._waits.until(deadline):
                return await anext(events, None)
        except _EventTooLong:
            raise self._failures.sent("an event that is too long") from None
        except SSEError:
            raise self._failures.sent("an answer that is not a stream") from None
        except httpx.HTTPError:
            raise self._failures.broke_off() from None

    def _parsed(self, data: str) -> ReplyChunk:
        try:
            chunk = parse_json(data)
        except ValueError:
            raise self._failures.sent("an event that is not JSON") from None
        if not isinstance(chunk, dict):
            raise self._failures.sent("an event that is not an object")
        if chunk.get("error") is not None:
            raise self._failures.failed(chunk["error"])
        return chunk


class _EventTooLong(httpx.DecodingError):
    """An event has more than _MAX_EVENT_BYTES."""


class _LimitedStream(httpx.AsyncByteStream):
    """The bytes of an answer, until one event has too many."""

    def __init__(self, stream: httpx.SyncByteStream | httpx.AsyncByteStream | None) -> None:
        assert isinstance(stream, httpx.AsyncByteStream), "the client is asynchronous"
        self._stream = stream
        self._length = 0

    def begin_event(self) -> None:
        self._length = 0

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for piece in self._stream:
            self._length += len(piece)
            if self._length > _MAX_EVENT_BYTES:
                raise _EventTooLong("too long")
            yield piece

    async def aclose(self) -> None:
        await self._stream.aclose()
