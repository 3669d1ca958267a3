"""Runs turns in tasks of its own, so that a turn can outlive the connection that began it."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Self

from app.core.errors import QueueFull, ShuttingDown, TurnNotFound, TurnStopped
from app.core.telemetry.logging import to_domain_error
from app.models.schemas import ChatResponse, RunningTurn, StartEvent
from app.models.turns.turn_log import TurnIds, TurnLog, TurnRecord

KEPT_S = 300.0  # for which the events of a turn can be read after its end
KEPT_BYTES = 64_000_000  # of the events of all turns that have ended
MAX_RUNNING = 1_000

TurnWork = Coroutine[Any, Any, ChatResponse]  # Any: a coroutine of asyncio neither yields nor is sent values


@dataclass(slots=True, eq=False)
class RegisteredTurn:
    """A turn that runs, or has ended a short time ago."""

    owner: str
    log: TurnLog
    task: asyncio.Task[None]
    ended_at: float = 0.0


class TurnReader:
    """Reads the events of a turn from any event on. Closing it may stop the turn."""

    def __init__(
        self,
        log: TurnLog,
        after: int = 0,
        *,
        stops: RegisteredTurn | None = None,
        is_background: bool = False,
    ) -> None:
        """`after` is the id of the last event that was read before, `stops` the turn that closing stops.

        A background turn is stopped only before its start event was read, while nobody knows its id.
        """
        self._log = log
        self._after = after
        self._stops = stops
        self._is_background = is_background
        self._joins = True

    @property
    def ids(self) -> TurnIds:
        """See EventReader."""
        return self._log.ids

    def unjoined(self) -> Self:
        """See EventReader."""
        self._joins = False
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TurnRecord:
        """Waits for the next event. Raises the error that the turn ended with."""
        record = await self._log.next(self._after, joins=self._joins)
        if record is None:
            raise StopAsyncIteration
        self._after = record.id
        if self._is_background and isinstance(record.event, StartEvent):
            self._stops = None
        return record

    async def aclose(self) -> None:
        """Ends the reading. If it stops the turn, it returns when the text so far has been committed."""
        if self._stops is not None:
            await stop(self._stops)


class TurnRegistry:
    """All turns that run, and those that ended a short time ago. Use it in one event loop only."""

    def __init__(
        self,
        *,
        max_running: int = MAX_RUNNING,
        kept_s: float = KEPT_S,
        kept_bytes: int = KEPT_BYTES,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max_running = max_running
        self._kept_s = kept_s
        self._kept_bytes = kept_bytes
        self._clock = clock
        self._running: dict[str, RegisteredTurn] = {}  # by message id
        self._ended: dict[str, RegisteredTurn] = {}  # the one that ended first is the first
        self._ended_bytes = 0
        self._is_closed = False

    def start(self, owner: str, log: TurnLog, work: TurnWork) -> RegisteredTurn:
        """Runs `work`, which records its events in `log`. Its result becomes the last event.

        A cancellation of `work` stops the turn: it still returns a response if there is text to keep.

        Raises:
            ShuttingDown: the registry was closed.
            QueueFull: too many turns run.
        """
        try:
            self._check_room()
        except (ShuttingDown, QueueFull):
            work.close()
            raise
        task = asyncio.create_task(self._run(log, work))
        turn = self._running[log.message_id] = RegisteredTurn(owner, log, task)
        return turn

    def find(self, owner: str, message_id: str) -> RegisteredTurn:
        """Returns the owner's turn.

        Raises:
            TurnNotFound: no such turn runs, or has ended a short time ago.
        """
        self._forget_old()
        turn = self._running.get(message_id) or self._ended.get(message_id)
        if turn is None or turn.owner != owner:
            raise turn_not_found()
        return turn

    def running(self, owner: str) -> list[RunningTurn]:
        """Returns the owner's turns that run, the oldest first."""
        logs = [turn.log for turn in self._running.values() if turn.owner == owner]
        return [log.turn for log in logs if log.turn is not None]

    async def close(self) -> None:
        """Stops all turns and waits until their text so far is committed. Later turns raise ShuttingDown."""
        self._is_closed = True
        for turn in self._running.values():
            turn.log.is_shutting_down = True
        await asyncio.gather(*map(stop, self._running.values()))

    def _check_room(self) -> None:
        if self._is_closed:
            raise ShuttingDown("The server is shutting down.")
        if len(self._running) >= self._max_running:
            raise QueueFull("Too many turns are running.", hint="Try again shortly.", retry_after=5)

    async def _run(self, log: TurnLog, work: TurnWork) -> None:
        try:
            log.finish(await work)
        except asyncio.CancelledError:
            log.fail(_shutting_down() if self._is_closed else TurnStopped("The turn was stopped."))
        except Exception as error:  # the root of a task
            log.fail(to_domain_error(error))
        finally:
            self._move_to_ended(log.message_id)

    def _move_to_ended(self, message_id: str) -> None:
        turn = self._running.pop(message_id)
        turn.ended_at = self._clock()
        turn.log.turn = None  # its question may be long, and does not count in `kept_bytes`
        if turn.log.last_id > 0:  # otherwise nobody knows its id
            self._ended[message_id] = turn
            self._ended_bytes += turn.log.size_bytes
        self._forget_old()

    def _forget_old(self) -> None:
        """Forgets turns that ended too long ago, and the oldest ones beyond the bound of bytes."""
        while (oldest := next(iter(self._ended.values()), None)) is not None:
            is_recent = self._clock() - oldest.ended_at < self._kept_s
            if is_recent and self._ended_bytes <= self._kept_bytes:
                return
            del self._ended[oldest.log.message_id]
            self._ended_bytes -= oldest.log.size_bytes


async def stop(turn: RegisteredTurn) -> None:
    """Stops the turn if it runs, and waits until it has ended and its text so far is committed."""
    try:
        await asyncio.sleep(0)  # a task that is cancelled before its first step runs nothing of it
    finally:
        if not turn.log.has_ended:
            turn.task.cancel()
    await asyncio.wait((turn.task,))


def turn_not_found() -> TurnNotFound:
    return TurnNotFound(
        "No turn with this id is running or has just ended.",
        hint="GET /api/v1/chat/conversation/{conversation_id} has what was committed.",
    )


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("The server is shutting down.")
