"""Runs the turns of conversations."""

from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, aclosing
from dataclasses import replace

from app.core.config import Settings
from app.core.deadline import Deadline
from app.core.errors import InvalidRequest, NothingToDo
from app.models.chat.finder import ConversationFinder
from app.models.chat.generation import ChatGenerator
from app.models.chat.turn import Turn, TurnEvent, TurnRunner
from app.models.conversation import Conversation, Message, text_message
from app.models.schemas import ChatRequest, ContinueRequest, EditRequest, RegenerateRequest
from app.models.storage.store import ConversationStore
from app.models.storage.turn_locks import TurnLocks


class ChatModelManager:
    """The service behind the routes for replies. Each conversation has one turn at a time."""

    def __init__(
        self,
        settings: Settings,
        store: ConversationStore,
        locks: TurnLocks,
        generator: ChatGenerator,
    ) -> None:
        """`store` must not evict a conversation whose lock is held in `locks`."""
        self._settings = settings
        self._store = store
        self._finder = ConversationFinder(store, locks)
        self._turns = TurnRunner(settings, store, generator)

    # Each of these finds its conversation, locks it, builds the turn and runs it.

    async def chat(
        self, owner: str, request: ChatRequest, deadline: Deadline
    ) -> AsyncGenerator[TurnEvent, None]:
        """Answers a message. A new conversation is stored together with its first turn.

        Raises:
            ConversationNotFound, MessageNotFound, ConversationBusy, QueueFull, and the errors of
            TurnRunner.run.
        """
        async with self._found_or_new(owner, request.conversation_id) as conversation:
            if request.system_prompt is not None:
                conversation = replace(conversation, system_prompt=request.system_prompt)
            parent_id = request.parent_id or conversation.head_id
            turn = await self._turn_for_text(conversation, parent_id, request.message, request)
            async with aclosing(self._turns.run(turn, deadline)) as events:
                async for event in events:
                    yield event

    async def edit(
        self, owner: str, conversation_id: str, request: EditRequest, deadline: Deadline
    ) -> AsyncGenerator[TurnEvent, None]:
        """Answers a changed user message, which becomes a sibling of the old one.

        Raises:
            InvalidRequest: the message is not the user's.
            MessageNotFound, and the errors of `chat`.
        """
        async with self._finder.locked(owner, conversation_id) as conversation:
            (*_, old) = await self._store.branch(conversation, request.message_id, turns=1)
            if old.role != "user":
                raise InvalidRequest("message_id: only a user message can be edited.")
            turn = await self._turn_for_text(conversation, old.parent_id, request.message, request)
            async with aclosing(self._turns.run(turn, deadline)) as events:
                async for event in events:
                    yield event

    async def regenerate(
        self, owner: str, conversation_id: str, request: RegenerateRequest, deadline: Deadline
    ) -> AsyncGenerator[TurnEvent, None]:
        """Answers a user message again. The new reply becomes a sibling of the old one.

        Raises:
            NothingToDo, MessageNotFound, and the errors of `chat`.
        """
        async with self._finder.locked(owner, conversation_id) as conversation:
            old = await self._reply(conversation, request.message_id)
            turn = await self._turn_for_reply(conversation, old, request)
            async with aclosing(self._turns.run(turn, deadline)) as events:
                async for event in events:
                    yield event

    async def continue_reply(
        self, owner: str, conversation_id: str, request: ContinueRequest, deadline: Deadline
    ) -> AsyncGenerator[TurnEvent, None]:
        """Continues the last reply. The deltas contain the new text, the response the whole reply.

        The longer reply becomes a sibling of the shorter one.

        Raises:
            NothingToDo, and the errors of `chat`.
        """
        async with self._finder.locked(owner, conversation_id) as conversation:
            old = await self._reply(conversation, None)
            turn = replace(await self._turn_for_reply(conversation, old, request), continues=old)
            async with aclosing(self._turns.run(turn, deadline)) as events:
                async for event in events:
                    yield event

    async def _turn_for_text(
        self, conversation: Conversation, parent_id: str | None, text: str, request: ChatRequest | EditRequest
    ) -> Turn:
        """Returns a turn that answers a new user message below `parent_id`."""
        before = await self._store.branch(conversation, parent_id, self._settings.max_conversation_length - 1)
        parent = before[-1] if before else await self._finder.message(conversation, parent_id)
        message = text_message("user", text).below(parent)
        model_name = request.model_name or conversation.model_name
        return Turn(conversation, request, model_name, (*before, message), new_message=message)

    async def _turn_for_reply(
        self, conversation: Conversation, reply: Message, request: RegenerateRequest | ContinueRequest
    ) -> Turn:
        """Returns a turn that answers the message before `reply`."""
        history = await self._store.branch(
            conversation, reply.parent_id, self._settings.max_conversation_length
        )
        return Turn(conversation, request, request.model_name or conversation.model_name, history)

    async def _reply(self, conversation: Conversation, message_id: str | None) -> Message:
        """Returns a reply; the last one of the current branch if `message_id` is None.

        Raises:
            NothingToDo: the conversation has no reply yet.
            InvalidRequest: the message is not a reply.
        """
        message = await self._finder.message(conversation, message_id or conversation.head_id)
        if message is not None and message.role == "assistant":
            return message
        if message_id is not None:
            raise InvalidRequest("message_id: the message is not a reply.")
        raise NothingToDo("The conversation has no reply yet.", hint="Send a message first.")

    def _found_or_new(
        self, owner: str, conversation_id: str | None
    ) -> AbstractAsyncContextManager[Conversation]:
        if conversation_id is None:
            return self._finder.new(owner, self._settings.system_prompt)
        return self._finder.locked(owner, conversation_id)
