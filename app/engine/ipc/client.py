"""Owns the asyncio end of one worker: sends requests, fans its answers out, and tells its death.

No torch here, and nothing of HTTP, settings or conversations.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import AsyncGenerator, Callable

from app.core.errors import (
    DeadlineExceeded,
    DomainError,
    ModelLoadFailed,
    QueueFull,
    ShuttingDown,
    WorkerDied,
    error_for_code,
)
from app.engine.ipc.messages import (
    Accepted,
    Cancel,
    ChatMessage,
    Delta,
    Deltas,
    Failed,
    Finished,
    LoadFailed,
    ModelInfo,
    Outbound,
    Progress,
    Ready,
    SamplingParams,
    Stats,
    Submit,
    WorkerSpec,
)
from app.engine.ipc.process import SHUTDOWN_GRACE_S, WorkerProcess

logger = logging.getLogger(__name__)

Event = Accepted | Delta | Finished
Report = Callable[[Progress], None]
Queue = asyncio.Queue[Event | DomainError]

LOAD_SILENCE_S = 300.0  # between two signs of life of a worker that is loading


class EngineClient:
    """A worker that serves one model. Made by `start`, which waits until it can; `close` must be awaited."""

    def __init__(self, spec: WorkerSpec, process: WorkerProcess, report: Report, max_requests: int) -> None:
        self._name = spec.model_name
        self._process = process
        self._report = report
        self._max_requests = max_requests
        self._requests: dict[str, Queue] = {}
        self._ready: asyncio.Future[ModelInfo] = asyncio.get_running_loop().create_future()
        self._is_closing = False
        self._was_ready = False
        self._last_heard = time.monotonic()
        self._reader = asyncio.create_task(self._read(), name=f"worker {spec.model_name}")
        self.stats: Stats | None = None

    @classmethod
    async def start(
        cls, spec: WorkerSpec, *, report: Report = lambda progress: None, max_requests: int = 1024
    ) -> "EngineClient":
        """A worker that is ready. `max_requests` bounds what is open at once, running and waiting.

        Raises:
            ModelUnavailable: the worker said why it cannot serve, ended without a word, or fell silent.
        """
        try:
            process = await WorkerProcess.spawn(spec)
        except OSError as error:
            raise ModelLoadFailed(f"No worker could be started: {error.strerror}.") from error
        client = cls(spec, process, report, max_requests)
        try:
            client.info = await client._wait_until_ready()
            client._was_ready = True
        except BaseException:
            await client.close()
            raise
        return client

    async def _wait_until_ready(self) -> ModelInfo:
        while not self._ready.done():
            await asyncio.wait((self._ready,), timeout=1.0)
            if not self._ready.done() and self.silence_s > LOAD_SILENCE_S:
                raise ModelLoadFailed(
                    f"The worker of {self._name} gave no sign for {LOAD_SILENCE_S:.0f} s while loading.",
                    hint="Is the folder of the model on a disk that answers?",
                )
        return self._ready.result()

    info: ModelInfo

    async def close(self) -> None:
        """Ends the process; open requests end with ShuttingDown. Idempotent."""
        self._is_closing = True
        self._ready.cancel()  # where a load is given up: nobody waits for its outcome any more
        self._fail_all(ShuttingDown("The model's worker was shut down.", hint="Send the message again."))
        await self._process.close(grace_s=SHUTDOWN_GRACE_S if self._was_ready else 0)
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive and not self._is_closing

    @property
    def silence_s(self) -> float:
        """Seconds since the worker last gave a sign of life; it does so every second between two steps."""
        return time.monotonic() - self._last_heard

    @property
    def end(self) -> str:
        """How the worker ended, where it is not alive."""
        return self._process.describe_end()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def open_requests(self) -> int:
        """Running and waiting together."""
        return len(self._requests)

    @property
    def memory_bytes(self) -> int:
        return self.info.memory_bytes if self.stats is None else self.stats.memory_bytes

    async def generate(
        self,
        sampling: SamplingParams,
        *,
        messages: tuple[ChatMessage, ...] | None = None,
        prompt: str | None = None,
        continue_final: bool = False,
        think: bool | None = None,
        timeout_s: float | None = None,
    ) -> AsyncGenerator[Event, None]:
        """One request: Accepted, Delta..., then Finished. Closing the generator cancels it in the worker.

        Raises:
            QueueFull: before anything else, when too many requests are open.
            DeadlineExceeded: `timeout_s` passed.
            DomainError: what the worker said, or WorkerDied.
        """
        request_id = uuid.uuid4().hex
        queue = self._open(request_id)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            self._process.send(Submit(request_id, sampling, messages, prompt, continue_final, think=think))
            while not isinstance(event := await _next_event(queue, deadline), Finished):
                yield event
            yield event
        finally:
            if self._requests.pop(request_id, None) is not None and self.is_alive:
                self._process.send(Cancel(request_id))

    def _open(self, request_id: str) -> Queue:
        if not self.is_alive:
            raise WorkerDied("The model's worker is not running.", hint="Send the message again.")
        if len(self._requests) >= self._max_requests:
            raise QueueFull(
                f"{len(self._requests)} requests are open, and no more may wait.",
                hint="Try again in a moment.",
                retry_after=1 + len(self._requests) // 8,
            )
        queue = self._requests[request_id] = Queue()
        return queue

    async def _read(self) -> None:
        try:
            async for message in self._process.messages():
                self._last_heard = time.monotonic()
                self._dispatch(message)
        except Exception:  # the task's root: without a reader the worker is of no use
            logger.exception("what the worker said could not be read: model=%s", self._name)
            self._process.kill()
        finally:
            self._died()

    def _dispatch(self, message: Outbound) -> None:
        match message:
            case Deltas(items):
                for delta in items:
                    self._give(delta.request_id, delta)
            case Accepted():
                self._give(message.request_id, message)
            case Finished():
                self._give_last(message.request_id, message)
            case Failed(request_id, code, text, hint):
                self._give_last(request_id, error_for_code(code, text, hint=hint))
            case Stats():
                self.stats = message
            case Progress():
                self._report(message)
            case Ready(info):
                self._settle(info)
            case LoadFailed(code, text, hint):
                self._settle(error_for_code(code, text, hint=hint))

    def _give(self, request_id: str, event: Event) -> None:
        if request_id in self._requests:  # otherwise cancelled here while the answer was on its way
            self._requests[request_id].put_nowait(event)

    def _give_last(self, request_id: str, event: Event | DomainError) -> None:
        queue = self._requests.pop(request_id, None)
        if queue is not None:
            queue.put_nowait(event)

    def _settle(self, outcome: ModelInfo | DomainError) -> None:
        if self._ready.done():
            return
        if isinstance(outcome, DomainError):
            self._ready.set_exception(outcome)
            self._ready.exception()  # whoever waited may have given up: asyncio need not complain
        else:
            self._ready.set_result(outcome)

    def _died(self) -> None:
        how = self._process.describe_end()
        if not self._is_closing:
            logger.error("worker ended: model=%s %s", self._name, how)
        self._settle(
            ModelLoadFailed(
                f"The worker of {self._name} ended while it was loading ({how}).",
                hint="The server's log says more; too little memory is the usual cause.",
            )
        )
        self._fail_all(
            WorkerDied(
                f"The model's worker ended ({how}).",
                hint="Send the message again: the worker is started anew.",
            )
        )

    def _fail_all(self, error: DomainError) -> None:
        for queue in self._requests.values():
            queue.put_nowait(error)
        self._requests.clear()


async def _next_event(queue: Queue, deadline: float | None) -> Event:
    try:
        async with asyncio.timeout(None if deadline is None else deadline - time.monotonic()):
            event = await queue.get()
    except TimeoutError:
        raise DeadlineExceeded(
            "The request took longer than the server allows.",
            hint="Ask for fewer tokens, or raise LLM_REQUEST_TIMEOUT.",
        ) from None
    if isinstance(event, DomainError):
        raise event
    return event
