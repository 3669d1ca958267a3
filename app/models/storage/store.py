"""Defines the store of conversations."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from app.models.conversation import Conversation, Message


@dataclass(frozen=True, slots=True)
class ConversationPage:
    """A part of a list of conversations, and the length of the whole list.

    `total` is None if a search finds so many that counting them would take long. `cursor` continues the list
    after this part; None at its end.
    """

    conversations: tuple[Conversation, ...]
    total: int | None
    cursor: str | None = None


@dataclass(frozen=True, slots=True)
class PageRequest:
    """Selects a part of a list: at most `limit` entries after `cursor`, or from `offset` on without one.

    `query` keeps only conversations whose title, or the text of one of whose messages, has all of its words,
    each at the beginning of a word, in upper or lower case.
    """

    limit: int
    offset: int = 0
    cursor: str | None = None
    query: str | None = None


@dataclass(frozen=True, slots=True)
class StoredTurn:
    """A turn that `begin_turn` has remembered. `reply` is incomplete, and None if the turn has ended."""

    message_id: str
    conversation_id: str
    reply: Message | None


class ConversationStore(Protocol):
    """Stores conversations and their messages. A caller that changes a conversation must hold its turn lock.

    Every method may raise StoreUnavailable. Then nothing was changed.
    """

    async def get(self, owner: str, conversation_id: str) -> Conversation:
        """Returns the owner's conversation, as the newest commit left it. This counts as a use of it.

        Raises:
            ConversationNotFound: the owner has no such conversation.
        """

    async def branch(
        self, conversation: Conversation, leaf_id: str | None, turns: int | None = None
    ) -> tuple[Message, ...]:
        """Returns the messages from the beginning to `leaf_id`; none if it is None.

        With `turns`, it returns only the last so many turns: a turn is a user message and all that follows
        it. The time that this takes must not grow with the rest of the conversation.

        Raises:
            MessageNotFound: the conversation has no such message.
        """

    async def messages(self, conversation: Conversation) -> tuple[Message, ...]:
        """Returns the messages of all branches, in the order of their commits."""

    async def has(self, conversation_id: str) -> bool:
        """Returns whether a conversation, of any owner, has this id."""

    async def reserve(self, conversation: Conversation) -> None:
        """Makes sure that a new conversation, whose turn lock must be held, can be committed later.

        Raises:
            QueueFull: the store is full, and every conversation is in the middle of a turn.
            ConversationBusy: a conversation, of any owner, has its id.
        """

    async def begin_turn(self, conversation: Conversation, new_messages: Sequence[Message]) -> None:
        """Remembers what is to be committed if this process dies before the next commit in the conversation,
        whose turn lock must be held. The last message is the reply, and is incomplete. A later call for the
        same turn replaces what is remembered.

        A store that does not outlive its process remembers nothing.
        """

    async def forget_turn(self, conversation: Conversation) -> None:
        """Forgets the turn that `begin_turn` has remembered: it has failed."""

    async def find_turn(self, owner: str, message_id: str) -> StoredTurn | None:
        """Returns an owner's turn that `begin_turn` has remembered.

        It runs, or it was the last one of its conversation. None if no such turn is known any more.
        """

    async def commit(self, conversation: Conversation, new_messages: Sequence[Message] = ()) -> None:
        """Stores the conversation, new or changed, and adds the messages, all at once or not at all.

        The time that this takes must not grow with the conversation.

        Raises:
            QueueFull: the conversation is new and not reserved, and no other conversation can be evicted.
        """

    async def delete(self, conversation: Conversation) -> None:
        """Removes the conversation with all its messages."""

    async def page(self, owner: str, page: PageRequest) -> ConversationPage:
        """Returns a part of the owner's conversations, the most recently changed first.

        Raises:
            InvalidRequest: the cursor is not one that this method returned.
        """
