"""Finds the turn that an Idempotency-Key has begun, so that a request that is sent twice is answered once."""

import hashlib
import json
from collections.abc import Iterator

from app.core.errors import ConversationNotFound, KeyReused, MessageNotFound, TurnNotFound
from app.models.chat.finder import find_turn
from app.models.chat.turn import to_response
from app.models.chat.turn_log import TurnEvent, TurnLog
from app.models.chat.turn_registry import TurnReader, TurnRegistry
from app.models.conversation import Message, ReplyFacts, new_id
from app.models.schemas import (
    ChatRequest,
    ChatResponse,
    DeltaEvent,
    StartEvent,
    TextPart,
    ThinkingEvent,
    ThinkingPart,
    ToolCallEvent,
    ToolCallPart,
)
from app.models.storage.key_records import KeyRecord, KeyRecords
from app.models.storage.store import ConversationStore
from app.models.storage.turn_locks import TurnLocks, busy


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
            conversation = await self._store.get(record.owner, record.conversation_id)
            (*_, reply) = await self._store.branch(conversation, record.message_id, turns=1)
        except (ConversationNotFound, MessageNotFound):
            return None
        return TurnReader(log_of(reply, to_response(conversation, reply)))

    async def _free_dead(self, record: KeyRecord) -> TurnReader | None:
        """Frees the key of a turn whose process has died, or whose conversation is gone.

        Returns a reader if another process has committed the turn by now.
        """
        async with self._locks.hold(record.conversation_id):
            reader = await self._committed(record)
            if reader is None:
                await self._records.release(record)
            return reader


def log_of(reply: Message, response: ChatResponse) -> TurnLog:
    """Returns the events of a turn that was committed, with each part of the reply in one piece."""
    log = TurnLog(reply.id, response.conversation_id, None if reply.reply is None else reply.reply.echo)
    for event in _events_of(reply, response.conversation_id):
        log.add(event)
    log.finish(response)
    return log


def _events_of(reply: Message, conversation_id: str) -> Iterator[TurnEvent]:
    yield start_of(reply, conversation_id)
    yield from part_events(reply)


def start_of(reply: Message, conversation_id: str) -> StartEvent:
    """Returns the start of the turn of a stored reply."""
    facts = reply.reply or ReplyFacts()
    return StartEvent(
        conversation_id=conversation_id,
        message_id=reply.id,
        parent_id=reply.parent_id,
        model_name=facts.model_name or "",
        model_id=facts.model_id or "",
        prompt_tokens=None if facts.usage is None else facts.usage.prompt_tokens,
        omitted_messages=facts.omitted_messages,
        parameters=facts.parameters,
    )


def part_events(reply: Message) -> Iterator[DeltaEvent | ThinkingEvent | ToolCallEvent]:
    """Yields an event for each part of a stored reply."""
    calls = 0
    for part in reply.parts:
        match part:
            case TextPart(text=text):
                yield DeltaEvent(text=text)
            case ThinkingPart(text=text):
                yield ThinkingEvent(text=text)
            case ToolCallPart(id=call_id, name=name, arguments=arguments):
                yield ToolCallEvent(index=calls, id=call_id, name=name, arguments=arguments)
                calls += 1
