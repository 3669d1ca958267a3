"""Holds the events of the requests of a worker until they are taken. Pieces of text that wait are joined."""

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from app.core.deadline import Deadline
from app.core.errors import DomainError
from app.engine.backend import GenerationEvent, deadline_exceeded, queue_full
from app.engine.ipc.messages import Delta, TokenAnswer

WorkerEvent = GenerationEvent | TokenAnswer


class EventQueue:
    """The events of one request, for one reader.

    Joined pieces of many fast replies cost a busy event loop less, so that it catches up.
    """

    def __init__(self) -> None:
        self._events: deque[WorkerEvent | DomainError] = deque()
        self._has_events = asyncio.Event()

    def put(self, event: WorkerEvent | DomainError) -> None:
        last = self._events[-1] if self._events else None
        if isinstance(event, Delta) and isinstance(last, Delta) and _belong_together(last, event):
            self._events[-1] = _joined(last, event)
        else:
            self._events.append(event)
        self._has_events.set()

    async def get(self) -> WorkerEvent:
        """Returns the next event. Raises it if it is an error."""
        while not self._events:
            self._has_events.clear()
            await self._has_events.wait()
        event = self._events.popleft()
        if isinstance(event, DomainError):
            raise event
        return event

    @contextmanager
    def ending_at(self, deadline: Deadline) -> Iterator[None]:
        """Adds DeadlineExceeded at the deadline. A timer for each token would take longer."""
        loop = asyncio.get_running_loop()
        timer = loop.call_later(deadline.remaining_s, self.put, deadline_exceeded())
        try:
            yield
        finally:
            timer.cancel()


class RequestQueues:
    """The queues of the requests that are open, by their ids."""

    def __init__(self, max_requests: int) -> None:
        self._max_requests = max_requests
        self._queues: dict[str, EventQueue] = {}

    def __len__(self) -> int:
        return len(self._queues)

    def open(self, request_id: str) -> EventQueue:
        """Returns the queue of a new request. Raises QueueFull if too many are open."""
        if len(self._queues) >= self._max_requests:
            raise queue_full(len(self._queues))
        queue = self._queues[request_id] = EventQueue()
        return queue

    def put(self, request_id: str, event: GenerationEvent) -> None:
        if request_id in self._queues:  # otherwise it was cancelled while the event was on its way
            self._queues[request_id].put(event)

    def put_last(self, request_id: str, event: WorkerEvent | DomainError) -> None:
        """Adds the event that ends the request."""
        queue = self._queues.pop(request_id, None)
        if queue is not None:
            queue.put(event)

    def close(self, request_id: str) -> bool:
        """Forgets the request. Returns whether it was still open."""
        return self._queues.pop(request_id, None) is not None

    def fail_all(self, error: DomainError) -> None:
        """Ends all requests with the error."""
        for queue in self._queues.values():
            queue.put(error)
        self._queues.clear()


def _belong_together(first: Delta, second: Delta) -> bool:
    return (first.kind, first.tool_call) == (second.kind, second.tool_call)


def _joined(first: Delta, second: Delta) -> Delta:
    return Delta(
        first.request_id,
        first.text + second.text,
        second.tokens,
        first.kind,
        first.logprobs + second.logprobs,
        first.tool_call,
    )
