"""Reads and changes the messages of stored conversations, without generating a reply."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from app.core.config import Settings
from app.core.errors import ConversationFull, MessageNotFound
from app.models.chat.finder import ConversationFinder
from app.models.chat.transcript import input_messages
from app.models.conversation import Conversation, Message, chained, new_id
from app.models.schemas import InputMessage
from app.models.storage.store import ConversationStore
from app.models.storage.turn_locks import TurnLocks


@dataclass(frozen=True, slots=True)
class StoredBranch:
    """A conversation, and its messages from the beginning to one of them."""

    conversation: Conversation
    messages: tuple[Message, ...]


class ConversationBranches:
    """The service behind the routes that treat messages as items. A conversation belongs to its owner."""

    def __init__(self, settings: Settings, store: ConversationStore, locks: TurnLocks) -> None:
        """`store` must not evict a conversation whose lock is held in `locks`."""
        self._settings = settings
        self._store = store
        self._finder = ConversationFinder(store, locks)

    async def read(self, owner: str, conversation_id: str, message_id: str | None = None) -> StoredBranch:
        """Returns the branch that ends with the message; the current one if it is None.

        Raises:
            ConversationNotFound, MessageNotFound.
        """
        conversation = await self._store.get(owner, conversation_id)
        leaf_id = conversation.head_id if message_id is None else message_id
        return StoredBranch(conversation, await self._store.branch(conversation, leaf_id))

    async def begin(
        self,
        owner: str,
        system_prompt: str,
        messages: Sequence[InputMessage],
        metadata: dict[str, str],
        chosen_id: str | None = None,
    ) -> StoredBranch:
        """Stores a new conversation with these messages. For `chosen_id` see ConversationFinder.new_id.

        Raises:
            InvalidRequest, ConversationFull, QueueFull.
        """
        new = chained(input_messages(messages))
        conversation = Conversation(
            owner=owner,
            system_prompt=system_prompt,
            metadata=metadata,
            id=await self._finder.new_id(chosen_id),
        )
        conversation = conversation.with_messages(*new) if new else conversation
        self._check_size(conversation)
        async with self._finder.new(conversation):
            await self._store.commit(conversation, new)
        return StoredBranch(conversation, new)

    async def add(self, owner: str, conversation_id: str, messages: Sequence[InputMessage]) -> StoredBranch:
        """Adds messages to the current branch. Returns the new ones only.

        Raises:
            ConversationNotFound, ConversationBusy, InvalidRequest, ConversationFull.
        """
        async with self._finder.locked(owner, conversation_id) as conversation:
            head = await self._finder.message(conversation, conversation.head_id)
            new = chained(input_messages(messages), head)
            grown = conversation.with_messages(*new) if new else conversation
            self._check_size(grown)
            await self._store.commit(grown, new)
        return StoredBranch(grown, new)

    async def remove(
        self, owner: str, conversation_id: str, message_id: str, part: int | None = None
    ) -> Conversation:
        """Takes a message, or one of its parts, out of the current branch.

        The messages after it are copied, with new ids, into a branch without it, which becomes the current
        one. The old branch stays stored.

        Raises:
            ConversationNotFound, ConversationBusy, ConversationFull.
            MessageNotFound: the current branch has no such message, or the message no such part.
        """
        async with self._finder.locked(owner, conversation_id) as conversation:
            branch = await self._store.branch(conversation, conversation.head_id)
            index = _index_of(branch, message_id)
            parent = branch[index - 1] if index else None
            rest = (*_without(branch[index], part), *branch[index + 1 :])
            copies = chained((replace(message, id=new_id("msg")) for message in rest), parent)
            changed = conversation.with_messages(*copies) if copies else conversation.with_head(parent)
            self._check_size(changed)
            await self._store.commit(changed, copies)
        return changed

    async def forget_reply(
        self, owner: str, conversation_id: str, message_id: str, *, deletes_all: bool
    ) -> None:
        """Marks a reply as deleted. If it `deletes_all`, the last one deletes the conversation with it.

        Raises:
            ConversationNotFound, ConversationBusy.
        """
        async with self._finder.locked(owner, conversation_id) as conversation:
            deleted = (*conversation.deleted_replies, message_id)
            messages = await self._store.messages(conversation)
            if deletes_all and {message.id for message in messages if message.reply} <= set(deleted):
                await self._store.delete(conversation)
            else:
                await self._store.commit(replace(conversation, deleted_replies=deleted))

    def _check_size(self, conversation: Conversation) -> None:
        limit = self._settings.max_conversation_bytes
        if conversation.size_bytes > limit:
            raise ConversationFull(f"The conversation would grow beyond {limit:,} bytes.")


def _index_of(branch: Sequence[Message], message_id: str) -> int:
    for index, message in enumerate(branch):
        if message.id == message_id:
            return index
    raise MessageNotFound("The conversation has no message with this id.")


def _without(message: Message, part: int | None) -> tuple[Message, ...]:
    """Returns the message without the part; nothing if that was all of it."""
    if part is None:
        return ()
    if part >= len(message.parts):
        raise MessageNotFound("The message has no such part.")
    parts = (*message.parts[:part], *message.parts[part + 1 :])
    return (replace(message, parts=parts),) if parts else ()
