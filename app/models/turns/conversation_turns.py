"""Does the work of turns: finds their conversations, locks them, builds the turns and runs them."""

from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from app.core.config import Settings
from app.core.deadline import Deadline
from app.core.errors import InvalidRequest
from app.models.chat.finder import ConversationFinder
from app.models.chat.generation import ChatGenerator
from app.models.chat.transcript import input_messages
from app.models.conversation import Conversation, Message, text_message
from app.models.schemas import ChatRequest, ChatResponse, ContinueRequest, EditRequest, RegenerateRequest
from app.models.storage.key_records import KeyRecord
from app.models.storage.store import ConversationStore
from app.models.turns.keyed_turns import KeyedTurns
from app.models.turns.turn_log import TurnLog
from app.models.turns.turn_planner import TurnPlanner
from app.models.turns.turn_runner import TurnRunner


class ConversationTurns:
    """The turns of conversations. Each method returns the reply, which is committed by then.

    A cancellation stops the turn. The errors are those that ChatModelManager names.
    """

    def __init__(
        self,
        settings: Settings,
        store: ConversationStore,
        finder: ConversationFinder,
        generator: ChatGenerator,
        keyed: KeyedTurns,
    ) -> None:
        self._settings = settings
        self._store = store
        self._finder = finder
        self._planner = TurnPlanner(settings, store, finder)
        self._runner = TurnRunner(settings, store, generator)
        self._keyed = keyed

    async def chat(
        self,
        log: TurnLog,
        owner: str,
        conversation_id: str,
        request: ChatRequest,
        deadline: Deadline,
        record: KeyRecord | None = None,
    ) -> ChatResponse:
        """Answers a message. With a record, it first makes sure that the key is still this turn's."""
        async with self._found_or_new(owner, conversation_id, request) as conversation:
            if record is not None:
                await self._keyed.confirm(record)
            if request.system_prompt is not None:
                conversation = replace(conversation, system_prompt=request.system_prompt)
            parent_id = request.parent_id or conversation.head_id
            turn = await self._planner.turn_for(conversation, parent_id, _messages_of(request), request)
            return await self._runner.run(turn, log, deadline)

    async def chat_once(
        self, log: TurnLog, record: KeyRecord, request: ChatRequest, deadline: Deadline
    ) -> ChatResponse:
        """Answers a message of a request with a key. Frees the key if nothing was committed."""
        response = None
        try:
            response = await self.chat(log, record.owner, record.conversation_id, request, deadline, record)
            return response
        finally:
            if response is None:
                await self._keyed.release(record)

    async def edit(
        self, log: TurnLog, owner: str, conversation_id: str, request: EditRequest, deadline: Deadline
    ) -> ChatResponse:
        """Answers a changed user message."""
        async with self._finder.locked(owner, conversation_id, request) as conversation:
            (*_, old) = await self._store.branch(conversation, request.message_id, turns=1)
            if old.role != "user":
                raise InvalidRequest("message_id: only a user message can be edited.")
            message = text_message("user", request.message)
            turn = await self._planner.turn_for(conversation, old.parent_id, (message,), request)
            return await self._runner.run(turn, log, deadline)

    async def regenerate(
        self, log: TurnLog, owner: str, conversation_id: str, request: RegenerateRequest, deadline: Deadline
    ) -> ChatResponse:
        """Answers a user message again."""
        async with self._finder.locked(owner, conversation_id, request) as conversation:
            old = await self._planner.reply(conversation, request.message_id)
            turn = await self._planner.turn_for_reply(conversation, old, request)
            return await self._runner.run(turn, log, deadline)

    async def continue_reply(
        self, log: TurnLog, owner: str, conversation_id: str, request: ContinueRequest, deadline: Deadline
    ) -> ChatResponse:
        """Continues the last reply."""
        async with self._finder.locked(owner, conversation_id, request) as conversation:
            old = await self._planner.reply(conversation, None)
            turn = replace(await self._planner.turn_for_reply(conversation, old, request), continues=old)
            return await self._runner.run(turn, log, deadline)

    def _found_or_new(
        self, owner: str, conversation_id: str, request: ChatRequest
    ) -> AbstractAsyncContextManager[Conversation]:
        if request.conversation_id is not None:
            return self._finder.locked(owner, conversation_id, request)
        return self._finder.new(
            Conversation(owner=owner, system_prompt=self._settings.system_prompt, id=conversation_id)
        )


def _messages_of(request: ChatRequest) -> tuple[Message, ...]:
    if request.message is not None:
        return (text_message("user", request.message),)
    return input_messages(request.messages or ())
