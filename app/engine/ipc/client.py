"""The EngineBackend that runs a model in a worker process on this machine."""

import asyncio
import contextlib
import logging
import uuid
from collections.abc import AsyncGenerator, Sequence

from app.core.deadline import Deadline
from app.core.errors import (
    ModelLoadFailed,
    ShuttingDown,
    WorkerDied,
)
from app.engine.backend import BackendStats, GenerationEvent, ModelInput
from app.engine.ipc.event_queue import EventQueue, RequestQueues
from app.engine.ipc.heartbeat import LOOK_EVERY_S, Liveness, most_stopped_s
from app.engine.ipc.inbox import Inbox
from app.engine.ipc.launcher import WorkerLauncher
from app.engine.ipc.load_outcome import RETRY_AFTER_S, LoadOutcome
from app.engine.ipc.messages import (
    Cancel,
    CountTokens,
    Detokenize,
    DetokenizedText,
    Finished,
    ModelInfo,
    Progress,
    SamplingParams,
    SendProgress,
    TokenCount,
    Tokenize,
    TokenQuestion,
    Tokens,
    WorkerSpec,
)
from app.engine.ipc.process import SHUTDOWN_GRACE_S, WorkerProcess

logger = logging.getLogger(__name__)


class WorkerClient:
    """A worker process that serves one model. Create it with `start`, which waits until it is ready."""

    def __init__(
        self,
        spec: WorkerSpec,
        process: WorkerProcess,
        report: SendProgress,
        max_requests: int,
        stuck_after_s: float,
    ) -> None:
        self._name = spec.model_name
        self._process = process
        self._liveness = Liveness(stuck_after_s, is_stopped=lambda: process.is_stopped)
        self._requests = RequestQueues(max_requests)
        self._load = LoadOutcome(spec.model_name, lambda: process.is_stopped, most_stopped_s(stuck_after_s))
        self._inbox = Inbox(self._requests, self._load, self._liveness, report)
        self._is_closing = False
        self._was_ready = False
        self._tasks = [
            asyncio.create_task(self._read(), name=f"worker {spec.model_name}"),
            asyncio.create_task(self._read_beats(), name=f"heartbeat {spec.model_name}"),
        ]

    @classmethod
    async def start(
        cls,
        spec: WorkerSpec,
        launcher: WorkerLauncher,
        *,
        report: SendProgress = lambda progress: None,
        max_requests: int = 1024,
        stuck_after_s: float = 60.0,
    ) -> "WorkerClient":
        """Returns a worker that is ready. `report` is called with the progress of loading.

        At most `max_requests` may be open at once, running and waiting together. A worker counts as stuck if
        it sends no heartbeat for `stuck_after_s`, or if a step takes that much longer than its limit.

        Raises:
            ModelUnavailable: the worker reported why it cannot serve, ended, or fell silent.
        """
        try:
            report(Progress("import", 0.0))
            process = await WorkerProcess.start(spec, launcher)
        except OSError as error:
            raise ModelLoadFailed(
                f"No worker could be started: {error.strerror}.", retry_after=RETRY_AFTER_S
            ) from error
        client = cls(spec, process, report, max_requests, stuck_after_s)
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(client.close)
            await client._load.wait()
            client._begin_watching()
            undo.pop_all()
        return client

    async def close(self) -> None:
        """See EngineBackend."""
        failure = self.failure
        self._is_closing = True
        self._load.abandon()
        if failure is None:
            self._requests.fail_all(
                ShuttingDown("The model's worker was shut down.", hint="Send the message again.")
            )
        else:
            self._requests.fail_all(_worker_died(failure))
        is_usable = self._was_ready and failure is None
        await self._process.close(grace_s=SHUTDOWN_GRACE_S if is_usable else 0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive and not self._is_closing

    @property
    def failure(self) -> str | None:
        """See EngineBackend."""
        if not self.is_alive:
            return f"ended ({self._process.describe_end()})"
        return self._liveness.failure

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def info(self) -> ModelInfo:
        return self._load.info

    @property
    def stats(self) -> BackendStats:
        return self._inbox.stats

    async def generate(
        self, model_input: ModelInput, sampling: SamplingParams, deadline: Deadline
    ) -> AsyncGenerator[GenerationEvent, None]:
        """See EngineBackend."""
        request_id = uuid.uuid4().hex
        queue = self._open(request_id)
        try:
            self._process.send(model_input.submit(request_id, sampling))
            with queue.ending_at(deadline):
                while not isinstance(event := await queue.get(), Finished):
                    assert not isinstance(event, Tokens | DetokenizedText | TokenCount)
                    yield event
            yield event
        finally:
            if self._requests.close(request_id) and self.is_alive:
                self._process.send(Cancel(request_id))

    async def tokenize(self, text: str, deadline: Deadline, *, adds_special_tokens: bool = True) -> Tokens:
        """See EngineBackend."""
        answer = await self._ask(Tokenize(uuid.uuid4().hex, text, adds_special_tokens), deadline)
        assert isinstance(answer, Tokens)
        return answer

    async def detokenize(
        self, token_ids: Sequence[int], deadline: Deadline, *, skips_special_tokens: bool = False
    ) -> str:
        """See EngineBackend."""
        question = Detokenize(uuid.uuid4().hex, tuple(token_ids), skips_special_tokens)
        answer = await self._ask(question, deadline)
        assert isinstance(answer, DetokenizedText)
        return answer.text

    async def count_tokens(self, model_input: ModelInput, deadline: Deadline) -> int:
        """See EngineBackend."""
        request_id = uuid.uuid4().hex
        question = CountTokens(request_id, model_input.submit(request_id, SamplingParams()))
        answer = await self._ask(question, deadline)
        assert isinstance(answer, TokenCount)
        return answer.tokens

    async def _ask(self, question: TokenQuestion, deadline: Deadline) -> object:
        queue = self._open(question.request_id)
        try:
            self._process.send(question)
            with queue.ending_at(deadline):
                return await queue.get()
        finally:
            self._requests.close(question.request_id)

    def _open(self, request_id: str) -> EventQueue:
        if (failure := self.failure) is not None:
            raise _worker_died(failure)
        return self._requests.open(request_id)

    async def _read_beats(self) -> None:
        async for beat in self._process.beats():
            self._liveness.record(beat)

    def _begin_watching(self) -> None:
        self._was_ready = True
        self._tasks.append(asyncio.create_task(self._watch(), name=f"watch {self._name}"))

    async def _watch(self) -> None:
        """Ends the open requests of a stuck worker, which would otherwise wait until their deadlines."""
        while self.is_alive:
            await asyncio.sleep(LOOK_EVERY_S)
            self._liveness.look()
            if (failure := self._liveness.failure) is not None:
                self._requests.fail_all(_worker_died(failure))

    async def _read(self) -> None:
        try:
            async for message in self._process.messages():
                self._inbox.put(message)
        except Exception:  # the task's root: without a reader the worker is useless
            logger.exception("a message of the worker could not be read: model=%s", self._name)
            self._process.kill()
        finally:
            self._died()

    def _died(self) -> None:
        how = self._process.describe_end()
        if not self._is_closing:
            logger.error("worker ended: model=%s %s", self._name, how)
        self._load.settle(
            ModelLoadFailed(
                f"The worker of {self._name} ended while it was loading ({how}).",
                hint="See the server's log. The usual cause is too little memory.",
                retry_after=RETRY_AFTER_S,
            )
        )
        self._requests.fail_all(_worker_died(f"ended ({how})"))


def _worker_died(failure: str) -> WorkerDied:
    return WorkerDied(
        f"The model's worker {failure}.", hint="Send the message again: a new worker will be started."
    )
