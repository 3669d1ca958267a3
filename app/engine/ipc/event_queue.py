"""Holds the events of one request until they are taken. Pieces of text that wait are joined."""

import asyncio
from collections import deque

from app.core.errors import DomainError
from app.engine.backend import GenerationEvent
from app.engine.ipc.messages import Delta, TokenAnswer

WorkerEvent = GenerationEvent | TokenAnswer


class EventQueue:
    """A queue with one reader. Many fast replies thus cost a busy event loop less, and it catches up."""

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
