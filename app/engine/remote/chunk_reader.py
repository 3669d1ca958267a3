"""Reads the server-sent events of a remote engine's reply as JSON objects."""

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import httpx
from httpx_sse import EventSource, ServerSentEvent, SSEError

from app.core.deadline import Deadline
from app.core.errors import DeadlineExceeded
from app.engine.remote.failures import FailureReader
from app.engine.remote.reply_stream import ReplyChunk
from app.engine.remote.waits import OpenWaits

_END = "[DONE]"
_MAX_ERROR_BYTES = 64_000


class ChunkReader:
    """Reads the answers of the remote engine of one model."""

    def __init__(self, failures: FailureReader, waits: OpenWaits) -> None:
        self._failures = failures
        self._waits = waits

    async def chunks(self, response: httpx.Response, deadline: Deadline) -> AsyncGenerator[ReplyChunk, None]:
        """Yields the chunks of a reply, up to its end.

        Raises:
            WorkerDied: the connection broke off.
            ModelUnavailable: the engine reported an error, or sent something else than chunks.
            DeadlineExceeded, ShuttingDown.
        """
        async with aclosing(EventSource(response).aiter_sse()) as events:
            while (event := await self._next(events, deadline)) is not None and event.data != _END:
                yield self._parsed(event.data)

    async def refusal(self, response: httpx.Response, deadline: Deadline) -> bytes:
        """Returns the begin of an answer that is no success, as far as it arrives in time."""
        content = b""
        with suppress(httpx.HTTPError, DeadlineExceeded):
            async with self._waits.until(deadline):
                async for piece in response.aiter_bytes():
                    content += piece
                    if len(content) > _MAX_ERROR_BYTES:
                        break
        return content

    async def _next(
        self, events: AsyncGenerator[ServerSentEvent, None], deadline: Deadline
    ) -> ServerSentEvent | None:
        try:
            async with self._waits.until(deadline):
                return await anext(events, None)
        except httpx.HTTPError:
            raise self._failures.broke_off() from None
        except SSEError:
            raise self._failures.failed("an answer that is no stream") from None

    def _parsed(self, data: str) -> ReplyChunk:
        try:
            chunk = json.loads(data)
        except ValueError:
            raise self._failures.failed("a message that is not JSON") from None
        if not isinstance(chunk, dict) or chunk.get("error") is not None:
            raise self._failures.failed(chunk.get("error") if isinstance(chunk, dict) else None)
        return chunk
