"""Finds the conversations and turns of an owner, and holds turn locks."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from app.core.errors import ConversationBusy, ConversationNotFound
from app.models.chat.turn_registry import RegisteredTurn, TurnRegistry, turn_not_found
from app.models.conversation import Conversation, Message, new_id
from app.models.storage.store import ConversationStore
from app.models.storage.turn_locks import TurnLocks


async def find_turn(
    turns: TurnRegistry, store: ConversationStore, owner: str, message_id: str
) -> RegisteredTurn:
    """Returns the owner's turn, unless its conversation was deleted after its end.

    Raises:
        TurnNotFound, StoreUnavailable.
    """
    turn = turns.find(owner, message_id)
    if turn.log.response is not None:
        try:
            await store.get(owner, turn.log.response.conversation_id)
        except ConversationNotFound:
            raise turn_not_found() from None
    return turn


class ConversationFinder:
    """Finds conversations and their messages. A conversation of another owner does not exist."""

    def __init__(self, store: ConversationStore, locks: TurnLocks) -> None:
        """`store` must not evict a conversation whose lock is held in `locks`."""
        self._store = store
        self._locks = locks

    @asynccontextmanager
    async def locked(self, owner: str, conversation_id: str) -> AsyncIterator[Conversation]:
        """Yields the conversation and holds its turn lock.

        Raises:
            ConversationNotFound, ConversationBusy.
        """
        await self._store.get(owner, conversation_id)  # raises ConversationNotFound before ConversationBusy
        async with self._locks.hold(conversation_id):
            # Read the conversation again, because another turn may have ended meanwhile.
            yield await self._store.get(owner, conversation_id)

    async def new_id(self, owner: str, chosen_id: str | None) -> str:
        """Returns an id for a new conversation: the chosen one unless a conversation, of any owner, has it.

        Raises:
            QueueFull: the store is full.
        """
        if chosen_id is not None:
            with suppress(ConversationBusy):
                async with self.new(Conversation(owner=owner, id=chosen_id)):
                    return chosen_id
        return new_id("conv")

    @asynccontextmanager
    async def new(self, conversation: Conversation) -> AsyncIterator[Conversation]:
        """Yields the new conversation, which can be committed later, and holds its turn lock.

        Raises:
            QueueFull: the store is full.
            ConversationBusy: a conversation, of any owner, has its id.
        """
        async with self._locks.hold(conversation.id):
            await self._store.reserve(conversation)
            yield conversation

    async def message(self, conversation: Conversation, message_id: str | None) -> Message | None:
        """Returns the message; None if `message_id` is None.

        Raises:
            MessageNotFound.
        """
        branch = await self._store.branch(conversation, message_id, turns=1)
        return branch[-1] if branch else None
