"""Finds the turn that an Idempotency-Key has begun, so that a request that is sent twice is answered once."""

import hashlib
import json

from app.core.errors import ConversationNotFound, KeyReused, MessageNotFound, TurnNotFound
from app.models.chat.finder import find_turn
from app.models.conversation import new_id
from app.models.schemas import ChatRequest
from app.models.storage.key_records import KeyRecord, KeyRecords
from app.models.storage.store import ConversationStore
from app.models.storage.turn_locks import TurnLocks, busy
from app.models.turns.replay import stored_log
from app.models.turns.turn_registry import TurnReader, TurnRegistry


def record_of(owner: str, key: str, request: ChatRequest, conversation_id: str) -> KeyRecord:
    """Returns a record for a turn that is yet to begin. Equal requests have equal hashes."""
    body = json.dumps(request.model_dump(mode="json", exclude_defaults=True), sort_keys=True)
    return KeyRecord(
        owner=owner,
        key=key,
        body_hash=hashlib.sha256(body.encode()).digest(),
        conversation_id=conversation_id,
        message_id=new_id("msg"),
    )


def key_reused() -> KeyReused:
    return KeyReused("This Idempotency-Key was sent with another body before.", hint="Use a new key.")


class KeyedTurns:
    """The turns that requests with an Idempotency-Key have begun."""

    def __init__(
        self, records: KeyRecords, turns: TurnRegistry, store: ConversationStore, locks: TurnLocks
    ) -> None:
        self._records = records
        self._turns = turns
        self._store = store
        self._locks = locks

    async def claim(self, record: KeyRecord) -> TurnReader | None:
        """Returns a reader of the turn that the key has begun. None if it has begun none: the key is now the
        record's, and the caller begins its turn.

        Raises:
            KeyReused: the key has begun a turn with another body.
            ConversationBusy: another process runs the turn.
        """
        stored = await self._records.claim(record)
        if stored.message_id == record.message_id:
            return None
        if stored.body_hash != record.body_hash:
            raise key_reused()
        if (reader := await self._running(stored) or await self._committed(stored)) is not None:
            return reader
        if (reader := await self._free_dead(stored)) is not None:
            return reader
        if (await self._records.claim(record)).message_id != record.message_id:
            raise busy()
        return None

    async def confirm(self, record: KeyRecord) -> None:
        """Makes sure that the key is still the record's, now that its turn holds its lock.

        Before that, another process may have taken the turn for one whose process has died. Now none
        can do so, because it would need the lock.

        Raises:
            ConversationBusy: another process has claimed the key, and runs the turn.
        """
        if (await self._records.claim(record)).message_id != record.message_id:
            raise busy()

    async def release(self, record: KeyRecord) -> None:
        """Frees the key of a turn that was not committed."""
        await self._records.release(record)

    async def _running(self, record: KeyRecord) -> TurnReader | None:
        try:
            turn = await find_turn(self._turns, self._store, record.owner, record.message_id)
            return TurnReader(turn.log)
        except TurnNotFound:
            return None

    async def _committed(self, record: KeyRecord) -> TurnReader | None:
        try:
            log = await stored_log(self._store, record.owner, record.conversation_id, record.message_id)
        except (ConversationNotFound, MessageNotFound):
            return None
        return TurnReader(log)

    async def _free_dead(self, record: KeyRecord) -> TurnReader | None:
        """Frees the key of a turn whose process has died, or whose conversation is gone.

        Returns a reader if another process has committed the turn by now.
        """
        await self._locks.settle(record.conversation_id)
        if (reader := await self._committed(record)) is not None:
            return reader
        async with self._locks.hold(record.conversation_id):
            reader = await self._committed(record)
            if reader is None:
                await self._records.release(record)
            return reader
