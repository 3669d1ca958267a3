"""Defines the store of conversations, and a store in memory with limits of number and age."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Set
from dataclasses import dataclass
from typing import Protocol

from app.core.errors import ConversationNotFound, QueueFull
from app.models.conversation import Conversation

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConversationPage:
    """A part of the list of conversations, and the length of the whole list."""

    conversations: tuple[Conversation, ...]
    total: int


class ConversationStore(Protocol):
    """Stores conversations by id. A caller that changes a conversation must hold its turn lock."""

    async def get(self, conversation_id: str) -> Conversation:
        """Returns the conversation. This counts as a use of it.

        Raises:
            ConversationNotFound: the conversation never existed, expired, or was evicted or deleted.
        """

    async def reserve(self, conversation_id: str) -> None:
        """Makes sure that a new conversation, whose turn lock must be held, can be stored later.

        Raises:
            QueueFull: the store is full, and every conversation is in the middle of a turn.
        """

    async def put(self, conversation: Conversation) -> None:
        """Stores the conversation, new or changed. This counts as a use of it.

        Raises:
            QueueFull: the conversation is new and not reserved, and no other conversation can be evicted.
        """

    async def delete(self, conversation_id: str) -> None:
        """Removes the conversation.

        Raises:
            ConversationNotFound.
        """

    async def page(self, *, limit: int, offset: int) -> ConversationPage:
        """Returns at most `limit` conversations from `offset` on, the most recently used first."""


class MemoryStore:
    """Keeps conversations in memory, in order of use, and evicts the least recently used beyond the limit.

    Conversations whose ids are in `held` are in the middle of a turn; they are neither evicted nor expire.
    """

    def __init__(
        self,
        *,
        max_conversations: int,
        max_bytes: int = 2**63,
        ttl_s: float,
        held: Set[str],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._max = max_conversations
        self._max_bytes = max_bytes
        self._bytes = 0  # of memory that all conversations take
        self._ttl_s = ttl_s
        self._held = held
        self._clock = clock
        self._conversations: OrderedDict[str, Conversation] = OrderedDict()
        self._used_at: dict[str, float] = {}

    async def get(self, conversation_id: str) -> Conversation:
        """See ConversationStore."""
        self._drop_expired()
        conversation = self._conversations.get(conversation_id)
        if conversation is None:
            raise ConversationNotFound(
                "No conversation has this id.",
                hint="It may have expired, or the server restarted; POST /api/v1/chat/new starts one.",
            )
        self._touch(conversation_id)
        return conversation

    async def reserve(self, conversation_id: str) -> None:
        """See ConversationStore. A held id counts as stored, so the reservation needs no record."""
        assert conversation_id in self._held, "the turn that reserves a place must hold its lock"
        self._make_room_for(conversation_id)

    async def put(self, conversation: Conversation) -> None:
        """See ConversationStore."""
        self._drop_expired()
        if conversation.id not in self._conversations and conversation.id not in self._held:
            self._make_room_for(conversation.id)
        self._make_memory_for(conversation)
        if (old := self._conversations.get(conversation.id)) is not None:
            self._bytes -= old.memory_bytes
        self._bytes += conversation.memory_bytes
        self._conversations[conversation.id] = conversation
        self._touch(conversation.id)

    async def delete(self, conversation_id: str) -> None:
        """See ConversationStore."""
        await self.get(conversation_id)
        self._remove(conversation_id)

    async def page(self, *, limit: int, offset: int) -> ConversationPage:
        """See ConversationStore."""
        self._drop_expired()
        newest_first = list(reversed(self._conversations.values()))
        return ConversationPage(tuple(newest_first[offset : offset + limit]), len(newest_first))

    def _touch(self, conversation_id: str) -> None:
        self._conversations.move_to_end(conversation_id)
        self._used_at[conversation_id] = self._clock()

    def _remove(self, conversation_id: str) -> None:
        self._bytes -= self._conversations.pop(conversation_id).memory_bytes
        del self._used_at[conversation_id]

    def _idle_ids(self) -> Iterator[str]:
        """Yields the ids of conversations that are not in a turn, the least recently used first."""
        return (key for key in self._conversations if key not in self._held)

    def _drop_expired(self) -> None:
        while (oldest := next(self._idle_ids(), None)) is not None:
            if self._clock() - self._used_at[oldest] <= self._ttl_s:
                return
            self._remove(oldest)
            logger.info("conversation expired: id=%s", oldest)

    def _make_room_for(self, conversation_id: str) -> None:
        """Evicts conversations until this one fits beside those that are stored or in their first turn."""
        while len(self._conversations.keys() | self._held | {conversation_id}) > self._max:
            oldest = next(self._idle_ids(), None)
            if oldest is None:
                raise _all_in_use()
            self._remove(oldest)
            logger.warning("conversation evicted, LLM_MAX_CONVERSATIONS reached: id=%s", oldest)

    def _make_memory_for(self, conversation: Conversation) -> None:
        """Evicts other conversations until this one fits. It is stored in any case if it is in a turn, whose
        reply would be lost, or if no other is stored."""
        old = self._conversations.get(conversation.id)
        more = conversation.memory_bytes - (0 if old is None else old.memory_bytes)
        while self._bytes + more > self._max_bytes:
            oldest = next((key for key in self._idle_ids() if key != conversation.id), None)
            if oldest is None:
                if conversation.id in self._held or not self._conversations.keys() - {conversation.id}:
                    return
                raise _all_in_use()
            self._remove(oldest)
            logger.warning("conversation evicted, LLM_CONVERSATION_MEMORY_GB reached: id=%s", oldest)


def _all_in_use() -> QueueFull:
    return QueueFull("Every conversation is in use.", hint="Try again shortly.", retry_after=5)
