"""Keeps conversations in memory, with limits of number, age and bytes."""

import asyncio
import logging
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field

from app.core.errors import ConversationNotFound, MessageNotFound, QueueFull
from app.models.conversation import Conversation, Message
from app.models.storage.page_cursor import after, cursor_at
from app.models.storage.search import matches, search_words
from app.models.storage.store import ConversationPage, PageRequest, StoredTurn
from app.models.storage.turn_locks import busy

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Record:
    """A stored conversation with the messages of all branches, in the order of their commits."""

    conversation: Conversation
    used_at: float
    messages: dict[str, Message] = field(default_factory=dict)
    messages_bytes: int = 0  # memory of the messages

    @property
    def memory_bytes(self) -> int:
        return self.conversation.memory_bytes + self.messages_bytes


class MemoryStore:
    """Evicts the least recently used conversations beyond the limits, first of owners beyond their share.

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
        self._bytes = Counter[str]()  # of memory that the conversations of each owner take
        self._counts = Counter[str]()  # conversations of each owner
        self._ttl_s = ttl_s
        self._held = held
        self._clock = clock
        self.dropped = Counter(age=0, number=0, memory=0)  # conversations, by the limit that they exceeded
        self._records: OrderedDict[str, _Record] = OrderedDict()  # the least recently used first

    def __len__(self) -> int:
        """The number of conversations of all owners."""
        self._drop_expired()
        return len(self._records)

    async def get(self, owner: str, conversation_id: str) -> Conversation:
        """See ConversationStore."""
        self._drop_expired()
        record = self._records.get(conversation_id)
        if record is None or record.conversation.owner != owner:
            raise ConversationNotFound(
                "No conversation has this id.",
                hint="It may have expired, or the server restarted; POST /api/v1/chat/new starts one.",
            )
        self._touch(record)
        return record.conversation

    async def branch(
        self, conversation: Conversation, leaf_id: str | None, turns: int | None = None
    ) -> tuple[Message, ...]:
        """See ConversationStore."""
        messages, found = self._messages(conversation), list[Message]()
        while leaf_id is not None and turns != 0:
            if leaf_id not in messages:
                raise MessageNotFound("The conversation has no message with this id.")
            message = messages[leaf_id]
            found.append(message)
            leaf_id = message.parent_id
            if turns is not None and message.role == "user":
                turns -= 1
        return tuple(reversed(found))

    async def messages(self, conversation: Conversation) -> tuple[Message, ...]:
        """See ConversationStore."""
        return tuple(self._messages(conversation).values())

    def _messages(self, conversation: Conversation) -> dict[str, Message]:
        record = self._records.get(conversation.id)
        return {} if record is None else record.messages

    async def has(self, conversation_id: str) -> bool:
        """See ConversationStore."""
        return conversation_id in self._records

    async def reserve(self, conversation: Conversation) -> None:
        """See ConversationStore. A held id counts as stored, so the reservation needs no record."""
        if conversation.id in self._records:
            raise busy()
        assert conversation.id in self._held, "the turn that reserves a place must hold its lock"
        self._make_room_for(conversation)

    async def begin_turn(self, conversation: Conversation, new_messages: Sequence[Message]) -> None:
        """See ConversationStore."""

    async def forget_turn(self, conversation: Conversation) -> None:
        """See ConversationStore."""

    async def find_turn(self, owner: str, message_id: str) -> StoredTurn | None:
        """See ConversationStore. Its turns end with the process."""
        return None

    async def commit(self, conversation: Conversation, new_messages: Sequence[Message] = ()) -> None:
        """See ConversationStore."""
        self._drop_expired()
        record = self._records.get(conversation.id)
        if record is None and conversation.id not in self._held:
            self._make_room_for(conversation)
        added_bytes = sum(message.memory_bytes for message in new_messages)
        more = conversation.memory_bytes - (0 if record is None else record.conversation.memory_bytes)
        self._make_memory_for(conversation, more + added_bytes)
        if record is None:
            record = self._records[conversation.id] = _Record(conversation, self._clock())
            self._counts[conversation.owner] += 1
        record.conversation = conversation
        record.messages.update((message.id, message) for message in new_messages)
        record.messages_bytes += added_bytes
        self._bytes[conversation.owner] += more + added_bytes
        self._touch(record)

    async def delete(self, conversation: Conversation) -> None:
        """See ConversationStore."""
        if conversation.id in self._records:
            self._remove(conversation.id)

    async def page(self, owner: str, page: PageRequest) -> ConversationPage:
        """See ConversationStore."""
        self._drop_expired()
        records = [record for record in self._records.values() if record.conversation.owner == owner]
        if page.query is not None:
            records = await _search(records, search_words(page.query))
        found = sorted(
            (record.conversation for record in records),
            key=lambda each: (each.updated_at, each.id),
            reverse=True,
        )
        if page.cursor is not None:
            rest = [each for each in found if after(page.cursor, each)]
        else:
            rest = found[page.offset :]
        shown = tuple(rest[: page.limit])
        return ConversationPage(shown, len(found), cursor_at(shown[-1]) if len(rest) > page.limit else None)

    def _touch(self, record: _Record) -> None:
        self._records.move_to_end(record.conversation.id)
        record.used_at = self._clock()

    def _remove(self, conversation_id: str) -> None:
        record = self._records.pop(conversation_id)
        owner = record.conversation.owner
        self._counts[owner] -= 1
        self._bytes[owner] -= record.memory_bytes
        if not self._counts[owner]:
            del self._counts[owner], self._bytes[owner]

    def _idle_ids(self) -> Iterator[str]:
        """Yields the ids of conversations that are not in a turn, the least recently used first."""
        return (key for key in self._records if key not in self._held)

    def _drop_expired(self) -> None:
        while (oldest := next(self._idle_ids(), None)) is not None:
            if self._clock() - self._records[oldest].used_at <= self._ttl_s:
                return
            self._remove(oldest)
            self.dropped["age"] += 1
            logger.info("conversation expired: id=%s", oldest)

    def _make_room_for(self, conversation: Conversation) -> None:
        """Evicts conversations until this one fits beside those that are stored or in their first turn."""
        while len(self._records.keys() | self._held | {conversation.id}) > self._max:
            oldest = self._eviction_candidate(conversation, self._counts, 1, self._max)
            if oldest is None:
                raise _all_in_use()
            self._remove(oldest)
            self.dropped["number"] += 1
            logger.warning("conversation evicted, LLM_MAX_CONVERSATIONS reached: id=%s", oldest)

    def _make_memory_for(self, conversation: Conversation, more_bytes: int) -> None:
        """Evicts other conversations until this one can grow. It is stored in any case if it is in a turn,
        whose reply would be lost, or if no other is stored."""
        while self._bytes.total() + more_bytes > self._max_bytes:
            oldest = self._eviction_candidate(conversation, self._bytes, more_bytes, self._max_bytes)
            if oldest is None:
                if conversation.id in self._held or not self._records.keys() - {conversation.id}:
                    return
                raise _all_in_use()
            self._remove(oldest)
            self.dropped["memory"] += 1
            logger.warning("conversation evicted, LLM_CONVERSATION_MEMORY_GB reached: id=%s", oldest)

    def _eviction_candidate(
        self, conversation: Conversation, held: Counter[str], more: int, limit: int
    ) -> str | None:
        """Returns the idle conversation that makes way for `more` of this one; None if there is none.

        It is the least recently used one: of the same owner if that one would exceed its share of the
        `limit`, otherwise of the owner that holds most. An owner beyond its share that has no idle one takes
        from others beyond theirs only.
        """
        oldest = dict[str, str]()  # of each owner
        for key in self._idle_ids():
            if key != conversation.id:
                oldest.setdefault(self._records[key].conversation.owner, key)
        owner, share = conversation.owner, limit / len(held.keys() | {conversation.owner})
        if held[owner] + more > share:
            if owner in oldest:
                return oldest[owner]
            oldest = {other: key for other, key in oldest.items() if held[other] > share}
        return oldest[max(oldest, key=lambda other: held[other])] if oldest else None


async def _search(records: Sequence[_Record], words: Sequence[str]) -> list[_Record]:
    """Returns the records with all words. It reads in a thread, because there may be much text."""
    texts = [(record, record.conversation.title, tuple(record.messages.values())) for record in records]
    return await asyncio.to_thread(
        lambda: [record for record, title, messages in texts if matches(title, messages, words)]
    )


def _all_in_use() -> QueueFull:
    return QueueFull("Every conversation is in use.", hint="Try again shortly.", retry_after=5)
