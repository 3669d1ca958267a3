"""Sends a request to a remote engine, without its oldest turns if the engine finds it too long."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial

import msgspec

from app.core.deadline import Deadline
from app.core.errors import ContextOverflow, DomainError, InvalidRequest, ModelUnavailable
from app.engine.backend import ModelInput
from app.engine.ipc.messages import SamplingParams
from app.engine.remote.chunk_reader import ChunkReader
from app.engine.remote.connection import UpstreamConnection
from app.engine.remote.counting import count_remotely
from app.engine.remote.failures import FailureReader
from app.engine.remote.kinds import EngineKind
from app.engine.remote.reply_stream import ReplyChunk
from app.engine.remote.request_body import request_body
from app.engine.remote.trimming import HistoryTrimmer, TrimmedInput


@dataclass(frozen=True, slots=True)
class AcceptedReply:
    """A reply that has begun. `sent` is the request that it replies to."""

    sent: TrimmedInput
    chunks: AsyncIterator[ReplyChunk]


class RequestSender:
    """Sends the requests for the replies of one model, whose window has `context_length` tokens."""

    def __init__(
        self,
        model: str,
        connection: UpstreamConnection,
        failures: FailureReader,
        kind: EngineKind,
        context_length: int,
    ) -> None:
        self._model = model
        self._connection = connection
        self._failures = failures
        self._kind = kind
        self._window = context_length
        self._reader = ChunkReader(failures, connection.waits)

    async def count_tokens(self, model_input: ModelInput, deadline: Deadline) -> int:
        return await count_remotely(self._connection, self._kind, self._model, model_input, deadline)

    @asynccontextmanager
    async def accepted(
        self, model_input: ModelInput, sampling: SamplingParams, deadline: Deadline
    ) -> AsyncIterator[AcceptedReply]:
        """Lends the reply, once its first chunk is there.

        Raises InvalidRequest for a field that the engine lacks, and the error of a request that it refuses.
        """
        trimmer = HistoryTrimmer(model_input, sampling)
        version: TrimmedInput | None = trimmer.whole
        has_counted = self._kind.counting is None
        refusal: DomainError | None = None
        while version is not None:
            try:
                async with self._attempt(version, sampling, deadline) as reply:
                    yield reply
                    return
            except _TooLong as too_long:
                refusal = too_long.error
            if has_counted:
                version = trimmer.shorter()
            else:
                has_counted = True
                try:
                    version = await trimmer.fitted(
                        self._window, partial(self.count_tokens, deadline=deadline)
                    )
                except (InvalidRequest, ModelUnavailable):  # a proxy may let only /v1 through
                    version = trimmer.shorter()
        assert refusal is not None, "there is a first version"
        raise refusal

    @asynccontextmanager
    async def _attempt(
        self, version: TrimmedInput, sampling: SamplingParams, deadline: Deadline
    ) -> AsyncIterator[AcceptedReply]:
        """Raises _TooLong if the engine finds the version too long, before it lends anything."""
        limited = msgspec.structs.replace(sampling, max_tokens=version.max_tokens)
        body = request_body(self._model, version.model_input, limited, self._kind)
        path = "completions" if version.model_input.messages is None else "chat/completions"
        async with self._connection.stream(path, body, deadline) as response:
            if not response.is_success:
                content = await self._reader.refusal(response, deadline)
                retry_after = response.headers.get("retry-after")
                error = self._failures.refused(response.status_code, content, retry_after)
                raise _TooLong(error) if isinstance(error, ContextOverflow) else error
            async with aclosing(self._reader.chunks(response, deadline)) as chunks:
                try:
                    first = await anext(chunks, None)
                except ContextOverflow as error:
                    raise _TooLong(error) from None
                async with aclosing(_from(first, chunks)) as every:
                    yield AcceptedReply(version, every)


async def _from(
    first: ReplyChunk | None, rest: AsyncIterator[ReplyChunk]
) -> AsyncGenerator[ReplyChunk, None]:
    if first is not None:
        yield first
        async for chunk in rest:
            yield chunk


class _TooLong(Exception):
    """The engine finds a request too long."""

    def __init__(self, error: DomainError) -> None:
        super().__init__(error.message)
        self.error = error
