"""Serves one model with a remote engine: streams its replies, and knows when the engine is gone."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass

import httpx

from app.core.catalogue import ModelProfile, RemoteEngine
from app.core.deadline import Deadline
from app.core.errors import (
    DomainError,
    InvalidRequest,
    WorkerDied,
)
from app.engine.backend import BackendStats, GenerationEvent, ModelInput, queue_full
from app.engine.ipc.messages import (
    Accepted,
    Delta,
    Finished,
    ModelInfo,
    RequestTimings,
    SamplingParams,
    Tokens,
)
from app.engine.remote.connection import UpstreamConnection
from app.engine.remote.discovery import FoundEngine, find_engine
from app.engine.remote.failures import FailureReader
from app.engine.remote.kinds import EngineKind
from app.engine.remote.reply_stream import ReplyChunk, ReplyStream
from app.engine.remote.sender import RequestSender

logger = logging.getLogger(__name__)

_ASK_S = 10.0  # for a short answer
_MAX_FAILURES = 3  # in a row; then the engine counts as gone until it is found again


@dataclass(frozen=True, slots=True)
class WatchTimes:
    """How often a remote engine is asked whether it is there, and how long it may take to answer."""

    every_s: float = 5.0
    answer_s: float = _ASK_S


WATCH_TIMES = WatchTimes()


@dataclass(slots=True)
class _Health:
    """Counts the failures in a row."""

    failures: int = 0
    reason: str | None = None

    def record(self, error: DomainError | None) -> None:
        if error is None:
            self.failures, self.reason = 0, None
        elif isinstance(error, WorkerDied):
            self.failures += 1
            self.reason = error.message

    @property
    def is_gone(self) -> bool:
        return self.failures >= _MAX_FAILURES


class RemoteBackend:
    """A model that another server serves. Create it with `start`. See EngineBackend."""

    def __init__(
        self,
        engine: RemoteEngine,
        connection: UpstreamConnection,
        failures: FailureReader,
        kind: EngineKind,
        info: ModelInfo,
        max_requests: int,
        times: WatchTimes,
    ) -> None:
        self.info = info
        self._connection = connection
        self._failures = failures
        self._kind = kind
        self._max_requests = max_requests
        self._times = times
        self._health = _Health()
        self._open = 0
        self._sender = RequestSender(engine.model, connection, failures, kind, info.context_length)
        self._watcher = asyncio.create_task(self._watch(), name=f"watch {failures.model_name}")

    @classmethod
    async def start(
        cls,
        profile: ModelProfile,
        engine: RemoteEngine,
        key: str | None,
        *,
        max_requests: int = 1024,
        times: WatchTimes = WATCH_TIMES,
    ) -> "RemoteBackend":
        """Asks the engine for its kind, and returns a backend for its model.

        Raises:
            ModelUnavailable: it cannot be reached, refuses the key, or does not have the model.
        """
        began = time.monotonic()
        failures = FailureReader(profile.name, _secrets(engine, key))
        async with AsyncExitStack() as undo:
            connection = UpstreamConnection(engine, key, failures)
            undo.push_async_callback(connection.close)
            found = await find_engine(connection, engine, Deadline.after(_ASK_S), profile.name)
            undo.pop_all()
        info = _info(profile, found, time.monotonic() - began)
        return cls(engine, connection, failures, found.kind, info, max_requests, times)

    @property
    def stats(self) -> BackendStats:
        return BackendStats(self._open, 0, running=self._open)

    @property
    def is_alive(self) -> bool:
        return not self._connection.waits.has_ended

    @property
    def failure(self) -> str | None:
        if not self.is_alive:
            return "was disconnected"
        return self._health.reason if self._health.is_gone else None

    async def close(self) -> None:
        self._connection.waits.end()
        self._watcher.cancel()
        await asyncio.wait((self._watcher,))
        await self._connection.close()

    async def generate(
        self, model_input: ModelInput, sampling: SamplingParams, deadline: Deadline
    ) -> AsyncGenerator[GenerationEvent, None]:
        """Raises the errors of EngineBackend, and InvalidRequest for a field that the remote engine lacks."""
        with self._opened(), self._recorded():
            began = time.monotonic()
            async with self._sender.accepted(model_input, sampling, deadline) as begun:
                sent = begun.sent
                yield Accepted("", None, sent.omitted_messages, sent.max_tokens or self.info.context_length)
                reply, first_token_s = ReplyStream(sampling.top_logprobs), None
                async for chunk in begun.chunks:
                    self._health.record(None)
                    for delta in self._read(reply, chunk):
                        first_token_s = first_token_s or time.monotonic() - began
                        yield delta
            if reply.finish_reason is None:
                raise self._failures.broke_off()
            total_s = time.monotonic() - began
            timings = RequestTimings(0.0, first_token_s or total_s, total_s)
            yield Finished("", reply.finish_reason, reply.counts(), timings, reply.matched_stop)

    async def tokenize(self, text: str, deadline: Deadline, *, adds_special_tokens: bool = True) -> Tokens:
        raise self._no_tokenizer()

    async def detokenize(
        self, token_ids: Sequence[int], deadline: Deadline, *, skips_special_tokens: bool = False
    ) -> str:
        raise self._no_tokenizer()

    async def count_tokens(self, model_input: ModelInput, deadline: Deadline) -> int:
        return await self._sender.count_tokens(model_input, deadline)

    @contextmanager
    def _opened(self) -> Iterator[None]:
        """Counts a request. Raises WorkerDied if the engine is gone, QueueFull if too many are open."""
        if (failure := self.failure) is not None:
            raise WorkerDied(failure, hint="Send the message again.")
        if self._open >= self._max_requests:
            raise queue_full(self._open)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1

    def _read(self, reply: ReplyStream, chunk: ReplyChunk) -> list[Delta]:
        try:
            return list(reply.read(chunk))
        except (AttributeError, KeyError, TypeError, ValueError):
            logger.warning("remote engine: a chunk was not understood: model=%s", self._failures.model_name)
            raise self._failures.sent("an event of an unknown form") from None

    async def _watch(self) -> None:
        """Looks whether the engine is there, so that its health is known without a request.

        Requests that wait for an engine that is gone end, as its host may have vanished without a word.
        """
        while True:
            await asyncio.sleep(self._times.every_s)
            failure: WorkerDied | None = None
            try:
                await self._connection.check(self._kind.health_path, Deadline.after(self._times.answer_s))
            except WorkerDied as error:
                failure = error
            except DomainError:
                pass  # it answers
            self._health.record(failure)
            if self._health.is_gone:
                self._connection.waits.give_up()

    @contextmanager
    def _recorded(self) -> Iterator[None]:
        """Records an error of the block as the engine's state."""
        try:
            yield
        except DomainError as error:
            self._health.record(error)
            raise

    def _no_tokenizer(self) -> InvalidRequest:
        return InvalidRequest(
            f"The tokens of {self._failures.model_name} are not known here: a remote engine serves it.",
            hint="POST /api/v1/count counts a prompt where the engine can.",
        )


def _secrets(engine: RemoteEngine, key: str | None) -> tuple[str, ...]:
    """Returns the texts that no message to a client may have."""
    url = httpx.URL(engine.base_url)
    return tuple(text for text in (key, engine.base_url, url.netloc.decode(), url.host) if text)


def _info(profile: ModelProfile, found: FoundEngine, load_seconds: float) -> ModelInfo:
    return ModelInfo(
        architecture=f"remote engine ({found.kind.name})",
        device="remote",
        dtype="",
        weights="",
        parameters=0,
        context_length=found.context_length or profile.context_length,
        memory_bytes=0,
        kv_cache_bytes=0,
        load_seconds=load_seconds,
    )
