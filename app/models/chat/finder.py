"""Finds the conversations and turns of an owner, and holds turn locks."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from app.core.errors import ConversationBusy, ConversationNotFound, HeadChanged
from app.models.conversation import Conversation, Message, new_id
from app.models.schemas import HeadFields
from app.models.storage.store import ConversationStore
from app.models.storage.turn_locks import TurnLocks
from app.models.turns.turn_registry import RegisteredTurn, TurnRegistry, turn_not_found


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
    async def locked(
        self, owner: str, conversation_id: str, request: HeadFields | None = None
    ) -> AsyncIterator[Conversation]:
        """Yields the conversation, whose head is the one that the request expects, and holds its turn lock.

        Raises:
            ConversationNotFound, ConversationBusy, HeadChanged.
        """
        await self._store.get(owner, conversation_id)  # raises ConversationNotFound before ConversationBusy
        async with self._locks.hold(conversation_id):
            # Read the conversation again, because another turn may have ended meanwhile.
            conversation = await self._store.get(owner, conversation_id)
            if request is not None and request.expects_head:
                _check_head(conversation, request.expected_head_id)
            yield conversation

    async def new_id(self, chosen_id: str | None) -> str:
        """Returns an id for a new conversation: the chosen one unless a conversation, of any owner, has it.

        It takes no lock, so that of several requests with one chosen id none is in the way of another.
        """
        if chosen_id is None or await self._is_taken(chosen_id):
            return new_id("conv")
        return chosen_id

    async def _is_taken(self, conversation_id: str) -> bool:
        return await self._locks.is_held(conversation_id) or await self._store.has(conversation_id)

    @asynccontextmanager
    async def new(self, conversation: Conversation) -> AsyncIterator[Conversation]:
        """Yields the new conversation, which can be committed later, and holds its turn lock.

        Raises:
            QueueFull: the store is full.
            ConversationBusy: another request has begun a conversation with its id meanwhile.
        """
        async with AsyncExitStack() as stack:
            try:
                await stack.enter_async_context(self._locks.hold(conversation.id))
                await self._store.reserve(conversation)
            except ConversationBusy:
                raise _already_begun() from None
            yield conversation

    async def message(self, conversation: Conversation, message_id: str | None) -> Message | None:
        """Returns the message; None if `message_id` is None.

        Raises:
            MessageNotFound.
        """
        branch = await self._store.branch(conversation, message_id, turns=1)
        return branch[-1] if branch else None


def _check_head(conversation: Conversation, expected_id: str | None) -> None:
    if conversation.head_id != expected_id:
        raise HeadChanged(
            "The head of the conversation is not the expected one, because another client has changed it.",
            hint="Nothing was changed. Read the conversation, and expect its head_id.",
            head_id=conversation.head_id,
        )


def _already_begun() -> ConversationBusy:
    return ConversationBusy(
        "Another request has just begun a conversation with this X-Session-Id.",
        hint="Send the id as conversation_id to continue that one, or choose another id.",
    )
