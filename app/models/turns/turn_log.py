"""Records the events of a turn, for any number of readers, which may begin at any event."""

import asyncio
import sys
from bisect import bisect_right
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Protocol

from app.core.errors import DomainError, InvalidRequest
from app.models.chat.generation import ReplyProgress
from app.models.schemas import (
    ChatResponse,
    DeltaEvent,
    LoadProgress,
    LogprobEntry,
    RunningTurn,
    ThinkingEvent,
)

TurnEvent = ReplyProgress | ChatResponse

_EVENT_BYTES = 1_000  # roughly, of an event without its texts
_PIECE_BYTES = 8  # of a piece of text beside the text
_MAX_PIECES = 256  # that are joined, so that no event takes long to encode


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """An event, and its id: its place in the turn, from 1 on. Joined events have the id of the last one."""

    id: int
    event: TurnEvent


@dataclass(frozen=True, slots=True)
class TurnIds:
    """Names a turn and its reply (`message_id`). For `echo` see ReplyFacts."""

    message_id: str
    conversation_id: str = ""
    echo: str | None = None


@dataclass(frozen=True, slots=True)
class TurnSnapshot:
    """A turn as it is now. `error` is the one that it has ended with."""

    ids: TurnIds
    events: tuple[TurnEvent, ...]
    has_ended: bool
    error: DomainError | None


class EventReader(Protocol):
    """Yields the events of a turn, and raises the error that it ends with. Its reader must close it."""

    @property
    def ids(self) -> TurnIds:
        """The ids of the turn that is read."""

    def unjoined(self) -> "EventReader":
        """Returns this reader, which from now on yields each piece of text by itself."""

    def __aiter__(self) -> AsyncIterator[TurnRecord]: ...

    async def __anext__(self) -> TurnRecord: ...

    async def aclose(self) -> None: ...


@dataclass(slots=True)
class _Run:
    """Events of one kind that follow each other and are read together, or one other event.

    `event` is the newest. Of pieces of text, all texts are kept; of load progress, only the newest event.
    """

    first_id: int
    last_id: int
    event: TurnEvent
    pieces: list[str] = field(default_factory=list)

    def takes(self, event: TurnEvent, text: str | None) -> bool:
        """Whether the event, whose text can be joined unless it is None, belongs to this run."""
        if type(event) is not type(self.event):
            return False
        if text is None:
            return isinstance(event, LoadProgress)
        return 0 < len(self.pieces) < _MAX_PIECES

    def next(self, event_id: int) -> TurnRecord:
        """Returns the event after `event_id` alone."""
        if not self.pieces:
            return TurnRecord(self.last_id, self.event)
        piece = self.pieces[event_id + 1 - self.first_id]
        return TurnRecord(event_id + 1, self.event.model_copy(update={"text": piece}))

    def after(self, event_id: int) -> TurnRecord:
        """Returns the events of this run after `event_id` as one."""
        if not self.pieces or event_id == self.last_id - 1:
            return TurnRecord(self.last_id, self.event)
        text = "".join(self.pieces[max(0, event_id + 1 - self.first_id) :])
        return TurnRecord(self.last_id, self.event.model_copy(update={"text": text}))


class TurnLog:
    """The events of one turn, in order, and how it ended. Use it in one event loop only.

    The pieces of text that a reader has not read yet come as one event, so a slow reader gets fewer and
    longer ones.
    """

    def __init__(self, message_id: str, conversation_id: str = "", echo: str | None = None) -> None:
        """`message_id` is the id of the turn and of its reply. For `echo` see ReplyFacts."""
        self.ids = TurnIds(message_id, conversation_id, echo)
        self.response: ChatResponse | None = None
        self.error: DomainError | None = None
        self.turn: RunningTurn | None = None  # from when its conversation is locked to its end
        self.is_shutting_down = False  # whether the turn is stopped because the server stops
        self.size_bytes = _EVENT_BYTES  # roughly, in memory
        self._runs: list[_Run] = []
        self._last_id = 0
        self._has_ended = False
        self._changed = asyncio.Event()

    @property
    def message_id(self) -> str:
        """The id of the turn and of its reply."""
        return self.ids.message_id

    @property
    def echo(self) -> str | None:
        return self.ids.echo

    @property
    def last_id(self) -> int:
        """The id of the last event so far, which may be the error; 0 if there is none."""
        return self._last_id

    @property
    def has_ended(self) -> bool:
        return self._has_ended

    def add(self, event: TurnEvent) -> None:
        """Records the next event."""
        assert not self._has_ended, "a turn has one end"
        self._last_id += 1
        text = _joinable_text(event)
        if not (self._runs and self._runs[-1].takes(event, text)):
            self._runs.append(_Run(self._last_id, self._last_id, event))
            self.size_bytes += _size_bytes(event)
        run = self._runs[-1]
        run.last_id = self._last_id
        run.event = event
        if text is not None:
            run.pieces.append(text)
            self.size_bytes += _PIECE_BYTES + sys.getsizeof(text)
        self._changed.set()

    def finish(self, response: ChatResponse) -> None:
        """Records the last event of a turn that has not failed."""
        self.response = response
        self.add(response)
        self._end()

    def fail(self, error: DomainError) -> None:
        """Ends the turn with an error, which counts as an event if it is not the first."""
        error.__cause__ = error.__context__ = None
        self.error = error.with_traceback(None)  # the frames would keep all that the turn worked with
        self._last_id += 1 if self._last_id else 0
        self._end()

    def check_id(self, event_id: int) -> None:
        """Raises InvalidRequest if the turn has no event with that id yet; 0 is before the first."""
        if event_id > self._last_id:
            raise InvalidRequest(f"after: the last event of the turn is {self._last_id}.")

    def snapshot(self) -> TurnSnapshot:
        """Returns the events so far, with the pieces of a text joined."""
        events = tuple(run.after(run.first_id - 1).event for run in self._runs)
        return TurnSnapshot(self.ids, events, self._has_ended, self.error)

    async def next(self, after: int, *, joins: bool = True) -> TurnRecord | None:
        """Waits for the event after the one with the id `after` (0: the first). None after the last.

        If it `joins`, pieces of one text that follow each other come as one event.

        Raises:
            DomainError: the turn has ended with this error.
        """
        if after < self._last_id:
            await asyncio.sleep(0)  # a reader of many recorded events must not keep the event loop
        while after == self._last_id and not self._has_ended:
            self._changed.clear()  # its waiters were woken when it was set
            await self._changed.wait()
        if self._runs and after < self._runs[-1].last_id:
            run = self._runs[self._index(after + 1)]
            return run.after(after) if joins else run.next(after)
        if self.error is not None and (after < self._last_id or after == 0):
            raise self.error.with_traceback(None)  # without the frames of the readers before
        return None

    def _index(self, event_id: int) -> int:
        return bisect_right(self._runs, event_id, key=lambda run: run.first_id) - 1

    def _end(self) -> None:
        self._has_ended = True
        self._changed.set()


def _joinable_text(event: TurnEvent) -> str | None:
    """Returns the text of a piece without log-probabilities; None for any other event."""
    match event:
        case ThinkingEvent(text=text) | DeltaEvent(text=text, logprobs=None):
            return text
    return None


def _size_bytes(event: TurnEvent) -> int:
    """Returns roughly the memory of an event, without the pieces of a text that can be joined. A response
    shares the log-probabilities of its deltas."""
    match event:
        case DeltaEvent(logprobs=list() as entries):
            return _EVENT_BYTES + sum(map(_entry_bytes, entries))
        case ChatResponse():
            return _EVENT_BYTES + sys.getsizeof(event.response) + sys.getsizeof(event.thinking)
    return _EVENT_BYTES


def _entry_bytes(entry: LogprobEntry) -> int:
    return _EVENT_BYTES * (1 + len(entry.top_logprobs))
