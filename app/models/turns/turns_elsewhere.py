"""Finds turns in the background that other processes run or have run."""

import asyncio
import math
import time
from typing import Self
from weakref import WeakValueDictionary

from app.core.errors import ConversationBusy, ConversationNotFound, MessageNotFound, TurnElsewhere
from app.models.schemas import StartEvent
from app.models.storage.store import ConversationStore, StoredTurn
from app.models.storage.turn_locks import TurnLocks
from app.models.turns.replay import start_of, stored_log
from app.models.turns.turn_log import TurnIds, TurnLog, TurnRecord, TurnSnapshot
from app.models.turns.turn_registry import TurnReader, turn_not_found

_LOOK_EVERY_S = 1.0  # whether a turn elsewhere has ended


class TurnsElsewhere:
    """The last turn in the background of each conversation, as the store has it."""

    def __init__(
        self, store: ConversationStore, locks: TurnLocks, *, look_every_s: float = _LOOK_EVERY_S
    ) -> None:
        self._store = store
        self._locks = locks
        self._look_every_s = look_every_s
        self._looks: WeakValueDictionary[tuple[str, str], _Look] = WeakValueDictionary()

    async def log(self, owner: str, message_id: str) -> TurnLog:
        """Returns the events of the owner's turn, which has ended, with each part of the reply in one piece.

        Raises:
            TurnNotFound: there is no such turn, or a later one has been stored.
            TurnElsewhere: another process runs it, or it has died and its lease is still in force.
        """
        look = self.look(owner, message_id)  # this keeps it alive, so that others find the same
        async with look.lock:  # several at once read the same
            return await self.read_log(owner, message_id)

    def look(self, owner: str, message_id: str) -> "_Look":
        """Returns the look at the turn that all its followers in this process share."""
        key = owner, message_id
        look = self._looks.get(key)
        if look is None:
            look = self._looks[key] = _Look(self, owner, message_id, self._look_every_s)
        return look

    async def read_log(self, owner: str, message_id: str) -> TurnLog:
        """See `log`. The caller must hold the lock of the look at the turn."""
        turn = await self._find(owner, message_id)
        try:
            return await stored_log(self._store, owner, turn.conversation_id, message_id)
        except (ConversationNotFound, MessageNotFound):
            await self._settle(turn.conversation_id)
        try:
            return await stored_log(self._store, owner, turn.conversation_id, message_id)
        except (ConversationNotFound, MessageNotFound):
            raise turn_not_found() from None

    async def snapshot(self, owner: str, message_id: str) -> TurnSnapshot:
        """Returns the owner's turn as far as it is known here. Raises TurnNotFound."""
        try:
            return (await self.log(owner, message_id)).snapshot()
        except TurnElsewhere:
            turn = await self._find(owner, message_id)
        return TurnSnapshot(_ids_of(turn), _begun(turn), False, None)

    async def follow(self, owner: str, message_id: str, after: int) -> "ElsewhereReader":
        """Returns a reader of a turn that another process runs. Raises TurnNotFound."""
        turn = await self._find(owner, message_id)
        return ElsewhereReader(self.look(owner, message_id), turn, after)

    async def _find(self, owner: str, message_id: str) -> StoredTurn:
        turn = await self._store.find_turn(owner, message_id)
        if turn is None:
            raise turn_not_found()
        return turn

    async def _settle(self, conversation_id: str) -> None:
        """Lets the store keep the turn in which a process has died, as far as it is known."""
        try:
            await self._locks.settle(conversation_id)
        except ConversationBusy:
            raise TurnElsewhere(
                "The turn runs on another server, or is being recovered because that one has died.",
                hint="Its events can be followed: GET /api/v1/chat/turns/{message_id}/events.",
                retry_after=5,
            ) from None


class ElsewhereReader:
    """Reads a turn that another process runs: how it has begun, and the rest once it has ended there.

    A process that has died ends its turn as interrupted, as soon as its lease has run out.
    """

    def __init__(self, look: "_Look", turn: StoredTurn, after: int) -> None:
        self._look = look
        self._after = after
        self._begun = _begun(turn)
        self._ended: TurnReader | None = None
        self.ids = _ids_of(turn)

    def unjoined(self) -> Self:
        """See EventReader. The parts of the reply come in one piece each."""
        return self

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TurnRecord:
        """Waits for the next event. Raises TurnNotFound if the turn has failed meanwhile."""
        if self._ended is None and self._after < len(self._begun):
            self._after += 1
            return TurnRecord(self._after, self._begun[self._after - 1])
        if self._ended is None:
            log = await self._look.until_ended()
            self._ended = TurnReader(log, min(self._after, log.last_id - 1))
        return await anext(self._ended)

    async def aclose(self) -> None:
        """See EventReader. The turn goes on."""


class _Look:
    """Looks at one turn from time to time, on behalf of all its followers in this process."""

    def __init__(self, turns: TurnsElsewhere, owner: str, message_id: str, every_s: float) -> None:
        self.lock = asyncio.Lock()
        self._turns = turns
        self._owner = owner
        self._message_id = message_id
        self._every_s = every_s
        self._next = -math.inf
        self._log: TurnLog | None = None

    async def until_ended(self) -> TurnLog:
        """Waits for the turn's end. Raises TurnNotFound if it has failed."""
        while True:
            async with self.lock:
                if self._log is None and time.monotonic() >= self._next:
                    await self._read()
                if self._log is not None:
                    return self._log
                pause_s = self._next - time.monotonic()
            await asyncio.sleep(pause_s)

    async def _read(self) -> None:
        try:
            self._log = await self._turns.read_log(self._owner, self._message_id)
        except TurnElsewhere:
            self._next = time.monotonic() + self._every_s


def _ids_of(turn: StoredTurn) -> TurnIds:
    facts = None if turn.reply is None else turn.reply.reply
    return TurnIds(turn.message_id, turn.conversation_id, None if facts is None else facts.echo)


def _begun(turn: StoredTurn) -> tuple[StartEvent, ...]:
    """Returns the turn's start, unless its model was still loading when it was stored."""
    if turn.reply is None or turn.reply.reply is None or not turn.reply.reply.model_id:
        return ()
    return (start_of(turn.reply, turn.conversation_id),)
