"""Turns the events of a reply into a response, whole or as the events of a stream.

A whole response, also one that is read later, is built from the same events as a streamed one.
"""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus

from app.api.errors import status_of
from app.api.openai.responses.events import ResponseEvent, ResponseStreamEvent
from app.api.openai.responses.open_item import ItemEnd, OpenItem
from app.api.openai.responses.reply import (
    Echo,
    IncompleteDetails,
    ResponseBody,
    ResponseConversation,
    ResponseFailure,
    ResponseStatus,
    usage_of,
)
from app.core.errors import DomainError, RateLimitExceeded, TurnStopped
from app.core.literals import FinishReason
from app.models.schemas import (
    DeltaEvent,
    LoadProgress,
    Parameters,
    StartEvent,
    ThinkingEvent,
    ToolCallEvent,
    Usage,
)

_STATUSES: Mapping[FinishReason, ResponseStatus] = {
    "stop": "completed",
    "length": "incomplete",
    "interrupted": "cancelled",
    "cancelled": "cancelled",
}
_LAST_EVENTS: Mapping[ResponseStatus, str] = {
    "completed": "response.completed",
    "failed": "response.failed",
    "incomplete": "response.incomplete",
    "cancelled": "response.incomplete",
}


@dataclass(frozen=True, slots=True)
class Ending:
    """How a reply ended."""

    finish_reason: FinishReason
    usage: Usage | None
    ended_at: float = field(default_factory=time.time)


@dataclass(slots=True)
class ResponseBuilder:
    """A response while it grows. `message_id` is the message whose parts its items are."""

    id: str
    message_id: str
    echo: Echo
    conversation_id: str | None = None
    status: ResponseStatus = "queued"
    model: str = ""
    _parameters: Parameters | None = None
    _ending: Ending | None = None
    _failure: ResponseFailure | None = None
    _items: list[OpenItem] = field(default_factory=list)
    _open: OpenItem | None = None
    _numbers: int = 0

    def add(self, event: object) -> Iterator[ResponseStreamEvent]:
        """Yields the stream's events for the next event of the reply. Read it to its end."""
        match event:
            case LoadProgress() if self.echo.background and not self._numbers:
                yield self._state("response.created")
                yield self._state("response.queued")
            case StartEvent():
                yield from self._start(event)
            case DeltaEvent() | ThinkingEvent() | ToolCallEvent():
                yield from self._piece(event)
            case Ending():
                yield from self._end(event)

    def fail(self, error: DomainError) -> Iterator[ResponseStreamEvent]:
        """Yields the last events of a response that has failed, or was stopped before it said anything."""
        yield from self._close("incomplete")
        self.status = "cancelled" if isinstance(error, TurnStopped) else "failed"
        if self.status == "failed":
            self._failure = ResponseFailure(code=_code(error), message=_message(error))
        yield self._state(_LAST_EVENTS[self.status])

    @property
    def has_begun(self) -> bool:
        return self._numbers > 0

    def body(self) -> ResponseBody:
        """Returns the response as it is now."""
        ending, used = self._ending, self._parameters
        is_cut, is_whole = self.status == "incomplete", self.status == "completed"
        return ResponseBody(
            **self.echo.model_dump(exclude={"model"}),
            id=self.id,
            status=self.status,
            completed_at=int(ending.ended_at) if ending is not None and is_whole else None,
            error=self._failure,
            incomplete_details=IncompleteDetails(reason="max_output_tokens") if is_cut else None,
            model=self.echo.model or self.model,
            output=[item.item() for item in self._items],
            usage=None if ending is None or ending.usage is None else usage_of(ending.usage),
            conversation=None
            if self.conversation_id is None
            else ResponseConversation(id=self.conversation_id),
            temperature=None if used is None else used.temperature,
            top_p=None if used is None else used.top_p,
            presence_penalty=None if used is None else used.presence_penalty,
            frequency_penalty=None if used is None else used.frequency_penalty,
            top_logprobs=0 if used is None or used.top_logprobs is None else used.top_logprobs,
        )

    def _start(self, event: StartEvent) -> Iterator[ResponseStreamEvent]:
        self.status, self.model, self._parameters = "in_progress", event.model_name, event.parameters
        if not self._numbers:
            yield self._state("response.created")
        yield self._state("response.in_progress")

    def _piece(self, event: DeltaEvent | ThinkingEvent | ToolCallEvent) -> Iterator[ResponseStreamEvent]:
        if self._open is None or not self._open.takes(event):
            yield from self._close("completed")
            self._open = OpenItem.begin(event, self.message_id, len(self._items))
            self._items.append(self._open)
            yield from map(self._numbered, self._open.opening())
        yield self._numbered(self._open.add(event))

    def _end(self, ending: Ending) -> Iterator[ResponseStreamEvent]:
        self.status, self._ending = _STATUSES[ending.finish_reason], ending
        yield from self._close("completed" if self.status == "completed" else "incomplete")
        yield self._state(_LAST_EVENTS[self.status])

    def _close(self, status: ItemEnd) -> Iterator[ResponseStreamEvent]:
        if self._open is not None:
            yield from map(self._numbered, self._open.closing(status))
        self._open = None

    def _state(self, kind: str) -> ResponseStreamEvent:
        return self._numbered(ResponseEvent(type=kind, response=self.body()))

    def _numbered(self, event: ResponseStreamEvent) -> ResponseStreamEvent:
        event.sequence_number = self._numbers
        self._numbers += 1
        return event


def _code(error: DomainError) -> str:
    if isinstance(error, RateLimitExceeded):
        return "rate_limit_exceeded"
    return "server_error" if status_of(error) >= HTTPStatus.INTERNAL_SERVER_ERROR else error.code


def _message(error: DomainError) -> str:
    return error.message if error.hint is None else f"{error.message} {error.hint}"
