"""Owns where conversations live: in memory, bounded in number and age. Knows nothing of models."""

import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from app.core.errors import ConversationBusy, ConversationNotFound, QueueFull
from app.models.conversation import Conversation

logger = logging.getLogger(__name__)


class ConversationStore:
    """Conversations in order of use. The least recently used leaves when there are too many."""

    def __init__(
        self, *, max_conversations: int, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max = max_conversations
        self._ttl_s = ttl_s
        self._clock = clock
        self._conversations: OrderedDict[str, Conversation] = OrderedDict()
        self._used_at: dict[str, float] = {}
        self._busy: set[str] = set()

    def __len__(self) -> int:
        return len(self._conversations)

    def get(self, conversation_id: str) -> Conversation:
        """The conversation, which counts as used by this.

        Raises:
            ConversationNotFound: there is none, it expired, or it left.
        """
        self._drop_expired()
        if conversation_id not in self._conversations:
            raise ConversationNotFound(
                "There is no conversation with this id.",
                hint="It may have expired or the server restarted; POST /api/v1/chat/new starts one.",
            )
        self._use(conversation_id)
        return self._conversations[conversation_id]

    def put(self, conversation: Conversation) -> None:
        """Keeps the conversation, new or changed, as the most recently used.

        Raises:
            QueueFull: there are too many, and each is in the middle of a turn.
        """
        self._drop_expired()
        if conversation.id not in self._conversations and conversation.id not in self._busy:
            self._make_room()
        self._conversations[conversation.id] = conversation
        self._use(conversation.id)

    def delete(self, conversation_id: str) -> None:
        with self.turn(self.get(conversation_id)):
            self._forget(conversation_id)

    def page(self, *, limit: int, offset: int) -> list[Conversation]:
        """The most recently used first."""
        self._drop_expired()
        newest = list(reversed(self._conversations.values()))
        return newest[offset : offset + limit]

    @contextmanager
    def turn(self, conversation: Conversation) -> Iterator[None]:
        """Holds the conversation for one turn; it is neither changed by another nor evicted meanwhile.

        A new one has its place from here on, so that a reply is not refused once it was given.

        Raises:
            ConversationBusy: another turn holds it.
            QueueFull: it is new, and every other one is in the middle of a turn.
        """
        if conversation.id in self._busy:
            raise ConversationBusy(
                "The conversation is in the middle of a turn.",
                hint="Wait for the reply to end, or close its stream.",
            )
        if conversation.id not in self._conversations:
            self._make_room()
        self._busy.add(conversation.id)
        try:
            yield
        finally:
            self._busy.discard(conversation.id)

    def _use(self, conversation_id: str) -> None:
        self._conversations.move_to_end(conversation_id)
        self._used_at[conversation_id] = self._clock()

    def _forget(self, conversation_id: str) -> None:
        del self._conversations[conversation_id], self._used_at[conversation_id]

    def _idle(self) -> Iterator[Conversation]:
        return (c for c in self._conversations.values() if c.id not in self._busy)

    def _drop_expired(self) -> None:
        while (oldest := next(self._idle(), None)) is not None:
            if self._clock() - self._used_at[oldest.id] <= self._ttl_s:
                return
            self._forget(oldest.id)
            logger.info("conversation expired: id=%s", oldest.id)

    def _make_room(self) -> None:
        while len(self._conversations.keys() | self._busy) >= self._max:
            oldest = next(self._idle(), None)
            if oldest is None:
                raise QueueFull("Every conversation is in use.", hint="Try again shortly.", retry_after=5)
            self._forget(oldest.id)
            logger.warning("conversation evicted, LLM_MAX_CONVERSATIONS reached: id=%s", oldest.id)
