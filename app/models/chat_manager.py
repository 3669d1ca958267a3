"""Runs the turns of conversations, and creates, restores, lists, shortens and deletes conversations."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Protocol

from app.core.config import Settings
from app.core.deadline import Deadline
from app.core.errors import ConversationFull
from app.models.chat.generation import ChatGenerator
from app.models.chat.store import ConversationStore
from app.models.chat.transcript import restore_messages, to_summary, to_wire
from app.models.chat.turn import Turn, TurnEvent, TurnRunner
from app.models.chat.turn_locks import TurnLocks
from app.models.conversation import Conversation
from app.models.schemas import (
    ChatRequest,
    ContinueRequest,
    ConversationListResponse,
    ConversationResponse,
    DeletedResponse,
    NewChatRequest,
    NewChatResponse,
    RegenerateRequest,
    UndoResponse,
)


class KnownModels(Protocol):
    """The models that a conversation may ask for."""

    @property
    def current_name(self) -> str | None:
        """The name of the current model, which answers requests that name none; None without one."""

    def find(self, name: str | None) -> object:
        """Returns the state of the model; of the current one if `name` is None.

        Raises:
            ModelNotFound, NoModelChosen.
        """


class ChatModelManager:
    """The service behind the routes of conversations. Each conversation has one turn at a time."""

    def __init__(
        self,
        settings: Settings,
        store: ConversationStore,
        locks: TurnLocks,
        models: KnownModels,
        generator: ChatGenerator,
    ) -> None:
        """`store` must not evict a conversation whose lock is held in `locks`."""
        self._settings = settings
        self._store = store
        self._locks = locks
        self._models = models
        self._turns = TurnRunner(settings, store, generator)

    # Turns. Each finds its conversation, locks it, builds the turn and runs it.

    async def chat(self, request: ChatRequest, deadline: Deadline) -> AsyncGenerator[TurnEvent, None]:
        """Answers a message. A new conversation is stored together with its first turn.

        Raises:
            ConversationNotFound, ConversationBusy, QueueFull, and the errors of TurnRunner.run.
        """
        async with self._found_or_new(request.conversation_id) as conversation:
            turn = Turn.for_message(conversation, request)
            async with aclosing(self._turns.run(turn, deadline)) as events:
                async for event in events:
                    yield event

    async def regenerate(
        self, conversation_id: str, request: RegenerateRequest, deadline: Deadline
    ) -> AsyncGenerator[TurnEvent, None]:
        """Answers the last user message again. The old reply is replaced once the new one is complete.

        Raises:
            NothingToDo, and the errors of `chat`.
        """
        async with self._found(conversation_id) as conversation:
            turn = Turn.for_regeneration(conversation, request)
            async with aclosing(self._turns.run(turn, deadline)) as events:
                async for event in events:
                    yield event

    async def continue_reply(
        self, conversation_id: str, request: ContinueRequest, deadline: Deadline
    ) -> AsyncGenerator[TurnEvent, None]:
        """Continues the last reply. The deltas contain the new text, the response the whole reply.

        Raises:
            NothingToDo, and the errors of `chat`.
        """
        async with self._found(conversation_id) as conversation:
            turn = Turn.for_continuation(conversation, request)
            async with aclosing(self._turns.run(turn, deadline)) as events:
                async for event in events:
                    yield event

    @asynccontextmanager
    async def _found(self, conversation_id: str) -> AsyncIterator[Conversation]:
        """Yields the conversation and holds its turn lock."""
        await self._store.get(conversation_id)  # raises ConversationNotFound before ConversationBusy
        with self._locks.hold(conversation_id):
            # Read the conversation again, because another turn may have ended meanwhile.
            yield await self._store.get(conversation_id)

    @asynccontextmanager
    async def _found_or_new(self, conversation_id: str | None) -> AsyncIterator[Conversation]:
        if conversation_id is not None:
            async with self._found(conversation_id) as conversation:
                yield conversation
            return
        conversation = Conversation(system_prompt=self._settings.system_prompt)
        with self._locks.hold(conversation.id):
            await self._store.reserve(conversation.id)  # so that the finished turn can always be stored
            yield conversation

    # Conversations

    async def new(self, request: NewChatRequest) -> NewChatResponse:
        """Stores a new conversation, empty or restored from a transcript.

        Raises:
            InvalidRequest: the transcript's turns are out of order.
            ConversationFull: the conversation is larger than LLM_MAX_CONVERSATION_BYTES.
            ModelNotFound: no model has that name.
            QueueFull: the store is full, and every conversation is in the middle of a turn.
        """
        if request.model_name is not None:
            self._models.find(request.model_name)  # raises if no model has the name
        conversation = Conversation(
            title=request.title,
            system_prompt=self._settings.system_prompt
            if request.system_prompt is None
            else request.system_prompt,
            model_name=request.model_name,
            messages=restore_messages(request.messages),
        )
        if conversation.size_bytes > self._settings.max_conversation_bytes:
            raise ConversationFull(
                f"The conversation is larger than {self._settings.max_conversation_bytes:,} bytes.",
                hint="Shorten system_prompt, leave out old turns, or raise LLM_MAX_CONVERSATION_BYTES.",
            )
        await self._store.put(conversation)
        return NewChatResponse(
            conversation_id=conversation.id,
            title=conversation.title,
            system_prompt=conversation.system_prompt,
            model_name=conversation.model_name or self._models.current_name,
            message_count=len(conversation.messages),
            created_at=conversation.created_at,
        )

    async def get(self, conversation_id: str) -> ConversationResponse:
        """Returns the whole conversation.

        Raises:
            ConversationNotFound.
        """
        return to_wire(await self._store.get(conversation_id))

    async def list(self, limit: int, offset: int) -> ConversationListResponse:
        """Returns at most `limit` conversations from `offset` on, the most recently used first."""
        page = await self._store.page(limit=limit, offset=offset)
        return ConversationListResponse(
            conversations=[to_summary(conversation) for conversation in page.conversations],
            total=page.total,
            limit=limit,
            offset=offset,
        )

    async def delete(self, conversation_id: str) -> DeletedResponse:
        """Removes the conversation.

        Raises:
            ConversationNotFound, ConversationBusy.
        """
        async with self._found(conversation_id):
            await self._store.delete(conversation_id)
        return DeletedResponse(conversation_id=conversation_id)

    async def undo(self, conversation_id: str, turns: int) -> UndoResponse:
        """Drops the last `turns` turns, or all if there are fewer.

        Raises:
            ConversationNotFound, ConversationBusy.
            NothingToDo: the conversation has no turn.
        """
        async with self._found(conversation_id) as conversation:
            shorter = conversation.without_last_turns(turns)
            await self._store.put(shorter)
        return UndoResponse(
            conversation_id=conversation_id,
            removed_messages=len(conversation.messages) - len(shorter.messages),
            message_count=len(shorter.messages),
        )
