"""Removes old conversations, and checks that all stored ones are sound."""

from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from app.core.errors import ConversationBusy
from app.models.conversation import Conversation, Message
from app.models.storage.search import index_words
from app.models.storage.sql.sql_storage import SqlStorage


@dataclass(frozen=True, slots=True)
class PrunedCounts:
    """Numbers of conversations."""

    removed: int
    busy: int  # in the middle of a turn, and kept


async def prune(
    storage: SqlStorage, owner: str | None, before: datetime | None, keep: int | None, *, is_trial: bool
) -> PrunedCounts:
    """Removes conversations not changed since `before`, but not the `keep` newest of each owner.

    Either may be None, which sets no such limit. Each conversation is one transaction. A trial only counts.
    """
    removed = busy = 0
    for conversation in await storage.listing.outdated(owner, before, keep):
        try:
            if not is_trial:
                async with storage.locks.hold(conversation.id):
                    await storage.store.delete(conversation)
            removed += 1
        except ConversationBusy:
            busy += 1
    return PrunedCounts(removed, busy)


async def problems(storage: SqlStorage) -> AsyncIterator[str]:
    """Yields one sentence for each fault of the database."""
    async for conversation in storage.listing.conversations(None):
        messages = await storage.store.messages(conversation)
        for problem in conversation_problems(conversation, messages):
            yield f"{conversation.id}: {problem}"
        texts = (conversation.title or "", *(message.content for message in messages))
        indexed = await storage.listing.indexed_texts(conversation)
        if indexed != (expected := sum(bool(index_words(text)) for text in texts)):
            yield f"{conversation.id}: the search index has {indexed} of its {expected} texts"
    for fault in await storage.listing.faults():
        yield fault
    for conversation_id in await storage.leases.abandoned():
        yield f"{conversation_id}: a turn lease of a server that has ended is left"


def conversation_problems(conversation: Conversation, messages: Sequence[Message]) -> Iterator[str]:
    """Yields one sentence for each contradiction between a conversation and its messages."""
    depths: dict[str | None, int] = {None: 0}
    for message in messages:
        if message.parent_id not in depths:
            yield f"the parent of message {message.id} is missing, or was stored after it"
        elif message.depth != depths[message.parent_id] + 1:
            yield f"message {message.id} has depth {message.depth}, not {depths[message.parent_id] + 1}"
        depths[message.id] = message.depth
    if conversation.head_id not in depths:
        yield "its head is not one of its messages"
    elif conversation.message_count != depths[conversation.head_id]:
        yield f"it counts {conversation.message_count} messages, not {depths[conversation.head_id]}"
    size = sum(message.size_bytes for message in messages)
    if conversation.messages_bytes != size:
        yield f"it counts {conversation.messages_bytes} bytes, not {size}"
