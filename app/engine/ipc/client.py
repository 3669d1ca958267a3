"""The EngineBackend that runs a model in a worker process on this machine."""

import asyncio
import contextlib
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence

from app.core.deadline import Deadline
from app.core.errors import (
    DeadlineExceeded,
    DomainError,
    ModelLoadFailed,
    QueueFull,
    ShuttingDown,
    WorkerDied,
    error_for_code,
)
from app.engine.backend import BackendStats, EngineTotals, GenerationEvent, ModelInput
from app.engine.ipc.event_queue import EventQueue, WorkerEvent
from app.engine.ipc.heartbeat import Beat, Liveness
from app.engine.ipc.launcher import WorkerLauncher
from app.engine.ipc.messages import (
    Accepted,
    Cancel,
    CountTokens,
    Deltas,
    Detokenize,
    DetokenizedText,
    Failed,
    Finished,
    LoadFailed,
    ModelInfo,
    Outbound,
    Progress,
    PromptLogprobs,
    Ready,
    SamplingParams,
    SendProgress,
    Stats,
    TokenCount,
    Tokenize,
    TokenQuestion,
    Tokens,
    WorkerSpec,
)
from app.engine.ipc.process import SHUTDOWN_GRACE_S, WorkerProcess

logger = logging.getLogger(__name__)

_WATCH_EVERY_S = 0.25
_RETRY_AFTER_S = 5  # after a worker could not be started, or ended while it was loading
LOAD_SILENCE_S = 300.0  # between two signs of life of a worker that is loading


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
        self._report = report
        self._max_requests = max_requests
        self._liveness = Liveness(stuck_after_s)
        self._requests: dict[str, EventQueue] = {}
        self._ready: asyncio.Future[ModelInfo] = asyncio.get_running_loop().create_future()
        self._is_closing = False
        self._was_ready = False
        self._last_message = time.monotonic()
        self._tasks = [
            asyncio.create_task(self._read(), name=f"worker {spec.model_name}"),
            asyncio.create_task(self._read_beats(), name=f"heartbeat {spec.model_name}"),
        ]
        self._stats: Stats | None = None

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
                f"No worker could be started: {error.strerror}.", retry_after=_RETRY_AFTER_S
            ) from error
        client = cls(spec, process, report, max_requests, stuck_after_s)
        async with contextlib.AsyncExitStack() as undo:
            undo.push_async_callback(client.close)
            await client._wait_until_ready()
            undo.pop_all()
        return client

    async def _wait_until_ready(self) -> None:
        while not self._ready.done():
            await asyncio.wait((self._ready,), timeout=1.0)
            if not self._ready.done() and time.monotonic() - self._last_message > LOAD_SILENCE_S:
                raise ModelLoadFailed(
                    f"The worker of {self._name} was silent for {LOAD_SILENCE_S:.0f} s while loading.",
                    hint="Check that the disk with the model's folder responds.",
                    retry_after=_RETRY_AFTER_S,
                )
        self._ready.result()
        self._was_ready = True
        self._tasks.append(asyncio.create_task(self._watch(), name=f"watch {self._name}"))

    async def close(self) -> None:
        """See EngineBackend."""
        failure = self.failure
        self._is_closing = True
        self._ready.cancel()  # if the load was abandoned, nobody awaits its outcome any more
        if failure is None:
            self._fail_all(ShuttingDown("The model's worker was shut down.", hint="Send the message again."))
        else:
            self._fail_all(_worker_died(failure))
        await self._process.close(grace_s=SHUTDOWN_GRACE_S if self._was_ready else 0)
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
        return self._ready.result()

    @property
    def stats(self) -> BackendStats:
        stats, open_requests = self._stats, len(self._requests)
        if stats is None:
            return BackendStats(open_requests, self.info.memory_bytes)
        return BackendStats(
            open_requests,
            stats.memory_bytes,
            min(stats.running, open_requests),
            stats.kv_used_bytes,
            stats.kv_cache_bytes,
            EngineTotals(stats.preemptions, stats.drafts, stats.draft_tokens, stats.accepted_tokens),
        )

    async def generate(
        self, model_input: ModelInput, sampling: SamplingParams, deadline: Deadline
    ) -> AsyncGenerator[GenerationEvent, None]:
        """See EngineBackend."""
        request_id = uuid.uuid4().hex
        queue = self._open(request_id)
        try:
            self._process.send(model_input.submit(request_id, sampling))
            with _ending_at(deadline, queue):
                while not isinstance(event := await queue.get(), Finished):
                    assert not isinstance(event, Tokens | DetokenizedText | TokenCount)
                    yield event
            yield event
        finally:
            if self._requests.pop(request_id, None) is not None and self.is_alive:
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
            with _ending_at(deadline, queue):
                return await queue.get()
        finally:
            self._requests.pop(question.request_id, None)

    def _open(self, request_id: str) -> EventQueue:
        if (failure := self.failure) is not None:
            raise _worker_died(failure)
        if len(self._requests) >= self._max_requests:
            raise QueueFull(
                f"{len(self._requests)} requests are open, and the queue is full.",
                hint="Try again in a moment.",
                retry_after=1 + len(self._requests) // 8,
            )
        queue = self._requests[request_id] = EventQueue()
        return queue

    async def _read_beats(self) -> None:
        async for beat in self._process.beats():
            self._liveness.record(beat)

    async def _watch(self) -> None:
        """Ends the open requests of a stuck worker, which would otherwise wait until their deadlines."""
        while self.is_alive:
            await asyncio.sleep(_WATCH_EVERY_S)
            if (failure := self._liveness.failure) is not None:
                self._fail_all(_worker_died(failure))

    async def _read(self) -> None:
        try:
            async for message in self._process.messages():
                self._last_message = time.monotonic()
                self._dispatch(message)
        except Exception:  # the task's root: without a reader the worker is useless
            logger.exception("a message of the worker could not be read: model=%s", self._name)
            self._process.kill()
        finally:
            self._died()

    def _dispatch(self, message: Outbound) -> None:
        match message:
            case Deltas(items):
                for delta in items:
                    self._give(delta.request_id, delta)
            case Accepted() | PromptLogprobs():
                self._give(message.request_id, message)
            case Finished() | Tokens() | DetokenizedText() | TokenCount():
                self._give_last(message.request_id, message)
            case Failed(request_id, code, text, hint):
                self._give_last(request_id, error_for_code(code, text, hint=hint))
            case Stats():
                self._stats = message
            case Progress():
                self._report(message)
            case Ready(info):
                self._liveness.record(Beat(0.0, 0))  # loading has limits of its own
                self._settle(info)
            case LoadFailed(code, text, hint, retry_after):
                self._settle(error_for_code(code, text, hint=hint, retry_after=retry_after))

    def _give(self, request_id: str, event: GenerationEvent) -> None:
        if request_id in self._requests:  # otherwise it was cancelled while the answer was on its way
            self._requests[request_id].put(event)

    def _give_last(self, request_id: str, event: WorkerEvent | DomainError) -> None:
        queue = self._requests.pop(request_id, None)
        if queue is not None:
            queue.put(event)

    def _settle(self, outcome: ModelInfo | DomainError) -> None:
        if self._ready.done():
            return
        if isinstance(outcome, DomainError):
            self._ready.set_exception(outcome)
            self._ready.exception()  # otherwise asyncio complains if every waiter has given up
        else:
            self._ready.set_result(outcome)

    def _died(self) -> None:
        how = self._process.describe_end()
        if not self._is_closing:
            logger.error("worker ended: model=%s %s", self._name, how)
        self._settle(
            ModelLoadFailed(
                f"The worker of {self._name} ended while it was loading ({how}).",
                hint="See the server's log. The usual cause is too little memory.",
                retry_after=_RETRY_AFTER_S,
            )
        )
        self._fail_all(_worker_died(f"ended ({how})"))

    def _fail_all(self, error: DomainError) -> None:
        for queue in self._requests.values():
            queue.put(error)
        self._requests.clear()


def _worker_died(failure: str) -> WorkerDied:
    return WorkerDied(
        f"The model's worker {failure}.", hint="Send the message again: a new worker will be started."
    )


@contextlib.contextmanager
def _ending_at(deadline: Deadline, queue: EventQueue) -> Iterator[None]:
    """Adds DeadlineExceeded to the queue at the deadline. A timer for each token would take longer."""
    error = DeadlineExceeded(
        "The request took longer than the server allows.",
        hint="Ask for fewer tokens, or raise LLM_REQUEST_TIMEOUT.",
    )
    timer = asyncio.get_running_loop().call_later(deadline.remaining_s, queue.put, error)
    try:
        yield
    finally:
        timer.cancel()
