"""Begins the turns of conversations, and finds those that run."""

import asyncio
from weakref import WeakValueDictionary

from app.core.config import Settings
from app.core.deadline import Deadline
from app.core.errors import TurnElsewhere, TurnNotFound
from app.models.chat.finder import ConversationFinder, find_turn
from app.models.chat.generation import ChatGenerator
from app.models.conversation import new_id
from app.models.schemas import (
    ChatRequest,
    ContinueRequest,
    EditRequest,
    RegenerateRequest,
    RunningTurnsResponse,
    StopTurnResponse,
    TurnFields,
)
from app.models.storage.key_records import KeyRecords
from app.models.storage.store import ConversationStore
from app.models.storage.turn_locks import TurnLocks
from app.models.turns.conversation_turns import ConversationTurns
from app.models.turns.keyed_turns import KeyedTurns, record_of
from app.models.turns.turn_log import EventReader, TurnLog, TurnSnapshot
from app.models.turns.turn_registry import TurnReader, TurnRegistry, TurnWork, stop, turn_not_found
from app.models.turns.turns_elsewhere import TurnsElsewhere


class ChatModelManager:
    """The service behind the routes for replies. Each conversation has one turn at a time.

    Each method that begins a turn returns a reader of its events. Unless the request asks for `background`,
    closing the reader stops the turn. The reader raises the errors of the request.
    """

    def __init__(
        self,
        settings: Settings,
        store: ConversationStore,
        locks: TurnLocks,
        generator: ChatGenerator,
        turns: TurnRegistry,
        keys: KeyRecords,
    ) -> None:
        """`store` must not evict a conversation whose lock is held in `locks`."""
        self._store = store
        self._finder = ConversationFinder(store, locks)
        self._turns = turns
        self._keyed = KeyedTurns(keys, turns, store, locks)
        self._work = ConversationTurns(settings, store, self._finder, generator, self._keyed)
        self._elsewhere = TurnsElsewhere(store, locks)
        self._claiming: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def close(self) -> None:
        """Stops all turns, and waits until their text so far is committed. Later turns raise ShuttingDown."""
        await self._turns.close()

    def running(self, owner: str) -> RunningTurnsResponse:
        """Returns the owner's turns that run in this process."""
        return RunningTurnsResponse(turns=self._turns.running(owner))

    async def events(self, owner: str, message_id: str, after: int, *, is_here: bool = False) -> EventReader:
        """Returns a reader of the owner's turn, from the event after the one with the id `after` on.

        If another process runs the turn, the reader has its start, and the rest once it has ended there; with
        `is_here`, there is no such turn.

        Raises:
            TurnNotFound: no such turn runs, or has ended a short time ago.
            InvalidRequest: it has no event with that id yet.
        """
        try:
            log = (await find_turn(self._turns, self._store, owner, message_id)).log
        except TurnNotFound:
            return await self._events_elsewhere(owner, message_id, after, is_here)
        log.check_id(after)
        return TurnReader(log, after)

    async def _events_elsewhere(self, owner: str, message_id: str, after: int, is_here: bool) -> EventReader:
        try:
            log = await self._ended_elsewhere(owner, message_id, is_here)
        except TurnElsewhere:
            return await self._elsewhere.follow(owner, message_id, after)
        return TurnReader(log, min(after, log.last_id - 1))  # it has fewer events, and the same end

    async def _ended_elsewhere(self, owner: str, message_id: str, is_here: bool) -> TurnLog:
        try:
            return await self._elsewhere.log(owner, message_id)
        except TurnElsewhere:
            if is_here:
                raise turn_not_found() from None
            raise

    async def stop(self, owner: str, message_id: str, *, is_here: bool = False) -> StopTurnResponse:
        """Stops the owner's turn if it runs, and returns the part of its reply that is kept.

        Raises:
            TurnNotFound.
            TurnElsewhere: another process runs it. With `is_here`, this is TurnNotFound, too.
        """
        try:
            turn = await find_turn(self._turns, self._store, owner, message_id)
        except TurnNotFound:
            ended = await self._ended_elsewhere(owner, message_id, is_here)
            return StopTurnResponse(message_id=message_id, was_running=False, reply=ended.response)
        was_running = not turn.log.has_ended
        await stop(turn)
        return StopTurnResponse(message_id=message_id, was_running=was_running, reply=turn.log.response)

    async def snapshot(self, owner: str, message_id: str) -> TurnSnapshot:
        """Returns the owner's turn as it is now.

        Raises:
            TurnNotFound.
        """
        try:
            return (await find_turn(self._turns, self._store, owner, message_id)).log.snapshot()
        except TurnNotFound:
            return await self._elsewhere.snapshot(owner, message_id)

    async def chat(
        self,
        owner: str,
        request: ChatRequest,
        deadline: Deadline,
        key: str | None = None,
        *,
        echo: str | None = None,
        chosen_id: str | None = None,
    ) -> TurnReader:
        """Answers a message. A new conversation is stored together with its first turn.

        The same `key` and request within a day give the same turn again, whose later readers never stop it.
        `echo` is kept with the reply (see ReplyFacts). For `chosen_id` see ConversationFinder.new_id.

        Raises:
            KeyReused, StoreUnavailable, ShuttingDown, QueueFull. The reader raises ConversationNotFound,
            MessageNotFound, ConversationBusy, HeadChanged, QueueFull, and the errors of TurnRunner.run.
        """
        if key is None:
            conversation_id = await self._id_for(owner, request, chosen_id)
            log = TurnLog(new_id("msg"), conversation_id, echo)
            return self._begin(
                owner, log, request, self._work.chat(log, owner, conversation_id, request, deadline)
            )
        async with self._claiming.setdefault((owner, key), asyncio.Lock()):
            record = record_of(owner, key, request, await self._id_for(owner, request, chosen_id))
            if (reader := await self._keyed.claim(record)) is not None:
                return reader
            log = TurnLog(record.message_id, record.conversation_id, echo)
            return self._begin(owner, log, request, self._work.chat_once(log, record, request, deadline))

    async def edit(
        self, owner: str, conversation_id: str, request: EditRequest, deadline: Deadline
    ) -> TurnReader:
        """Answers a changed user message, which becomes a sibling of the old one.

        The reader raises InvalidRequest if the message is not the user's, and the errors of `chat`.
        """
        log = TurnLog(new_id("msg"), conversation_id)
        return self._begin(
            owner, log, request, self._work.edit(log, owner, conversation_id, request, deadline)
        )

    async def regenerate(
        self, owner: str, conversation_id: str, request: RegenerateRequest, deadline: Deadline
    ) -> TurnReader:
        """Answers a user message again. The new reply becomes a sibling of the old one.

        The reader raises NothingToDo, and the errors of `chat`.
        """
        log = TurnLog(new_id("msg"), conversation_id)
        return self._begin(
            owner, log, request, self._work.regenerate(log, owner, conversation_id, request, deadline)
        )

    async def continue_reply(
        self, owner: str, conversation_id: str, request: ContinueRequest, deadline: Deadline
    ) -> TurnReader:
        """Continues the last reply. The deltas contain the new text, the response the whole reply.

        The longer reply becomes a sibling of the shorter one. The reader raises NothingToDo, and the errors
        of `chat`.
        """
        log = TurnLog(new_id("msg"), conversation_id)
        return self._begin(
            owner, log, request, self._work.continue_reply(log, owner, conversation_id, request, deadline)
        )

    def _begin(self, owner: str, log: TurnLog, request: TurnFields, work: TurnWork) -> TurnReader:
        turn = self._turns.start(owner, log, work)
        return TurnReader(log, stops=turn, is_background=request.background)

    async def _id_for(self, owner: str, request: ChatRequest, chosen_id: str | None) -> str:
        if request.conversation_id is not None:
            return request.conversation_id
        return await self._finder.new_id(chosen_id)
