"""Creates, restores, lists, changes and deletes stored conversations."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from app.core.config import Settings
from app.core.errors import (
    ConversationBusy,
    ConversationFull,
    ConversationNotFound,
    NothingToDo,
    StoreUnavailable,
)
from app.models.chat.finder import ConversationFinder
from app.models.chat.transcript import restore_messages, to_summary, to_wire
from app.models.conversation import Conversation, chained, new_id, now
from app.models.schemas import (
    ConversationListResponse,
    ConversationResponse,
    DeletedAllResponse,
    DeletedResponse,
    ForkConversationRequest,
    NewChatRequest,
    NewChatResponse,
    SelectRequest,
    SelectResponse,
    UndoRequest,
    UndoResponse,
    UpdateConversationRequest,
)
from app.models.storage.store import ConversationStore, PageRequest
from app.models.storage.tree import MessageTree
from app.models.storage.turn_locks import TurnLocks

PAGE = 100  # conversations that are read at once in order to delete them


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


class ConversationManager:
    """The service behind the routes of stored conversations, each of which belongs to its owner."""

    def __init__(
        self, settings: Settings, store: ConversationStore, locks: TurnLocks, models: KnownModels
    ) -> None:
        """`store` must not evict a conversation whose lock is held in `locks`."""
        self._settings = settings
        self._store = store
        self._finder = ConversationFinder(store, locks)
        self._models = models

    async def new(self, owner: str, request: NewChatRequest, chosen_id: str | None = None) -> NewChatResponse:
        """Stores a new conversation, empty or restored from a transcript.

        For `chosen_id` see ConversationFinder.new_id.

        Raises:
            InvalidRequest: the transcript's turns are out of order.
            ConversationFull: the conversation is larger than LLM_MAX_CONVERSATION_BYTES.
            ModelNotFound: no model has that name.
            QueueFull: the store is full, and every conversation is in the middle of a turn.
        """
        self._check_model(request.model_name)
        messages = restore_messages(request.messages)
        system_prompt = request.system_prompt
        conversation = Conversation(
            owner=owner,
            title=request.title,
            metadata=request.metadata,
            system_prompt=self._settings.system_prompt if system_prompt is None else system_prompt,
            model_name=request.model_name,
            id=await self._finder.new_id(chosen_id),
        )
        conversation = conversation.with_messages(*messages) if messages else conversation
        self._check_size(conversation)
        async with self._finder.new(conversation):
            await self._store.commit(conversation, messages)
        return self._started(conversation, "New conversation started")

    async def get(self, owner: str, conversation_id: str, *, is_tree: bool = False) -> ConversationResponse:
        """Returns the conversation with the messages of its current branch; of all branches if `is_tree`.

        Raises:
            ConversationNotFound.
        """
        conversation = await self._store.get(owner, conversation_id)
        messages = await self._store.messages(conversation)
        tree = MessageTree(messages)
        return to_wire(conversation, tree, messages if is_tree else tree.branch(conversation.head_id))

    async def list(self, owner: str, page: PageRequest) -> ConversationListResponse:
        """Returns a part of the owner's conversations, the most recently changed first.

        Raises:
            InvalidRequest: the cursor or the query is wrong.
        """
        found = await self._store.page(owner, page)
        return ConversationListResponse(
            conversations=[to_summary(conversation) for conversation in found.conversations],
            total=found.total,
            limit=page.limit,
            offset=page.offset,
            next_cursor=found.cursor,
        )

    async def update(
        self, owner: str, conversation_id: str, request: UpdateConversationRequest
    ) -> ConversationResponse:
        """Changes the title, the model or the metadata. Returns the conversation with its current branch.

        Raises:
            ConversationNotFound, ConversationBusy, ConversationFull, ModelNotFound.
        """
        self._check_model(request.model_name)
        async with self._finder.locked(owner, conversation_id) as conversation:
            changes = {name: getattr(request, name) for name in request.model_fields_set}
            if request.metadata is None:
                changes = {name: {} if name == "metadata" else value for name, value in changes.items()}
            changed = replace(conversation, **changes, updated_at=now())
            self._check_size(changed)
            await self._store.commit(changed)
        return await self.get(owner, conversation_id)

    async def delete(self, owner: str, conversation_id: str) -> DeletedResponse:
        """Removes the conversation with all its branches.

        Raises:
            ConversationNotFound, ConversationBusy.
        """
        async with self._finder.locked(owner, conversation_id) as conversation:
            await self._store.delete(conversation)
        return DeletedResponse(conversation_id=conversation_id)

    async def delete_all(self, owner: str) -> DeletedAllResponse:
        """Removes all conversations of the owner but those in the middle of a turn, and counts both.

        Raises:
            StoreUnavailable: the hint says how many had been removed before.
        """
        deleted = 0
        try:
            async for conversation_id in self._ids(owner):
                with suppress(ConversationBusy, ConversationNotFound):
                    await self.delete(owner, conversation_id)
                    deleted += 1
            left = await self._store.page(owner, PageRequest(limit=1))
        except StoreUnavailable as error:
            hint = f"Conversations deleted before: {deleted}. Try again later."
            raise StoreUnavailable(error.message, hint=hint, retry_after=error.retry_after) from error
        return DeletedAllResponse(deleted=deleted, kept=left.total or 0)

    async def _ids(self, owner: str) -> AsyncIterator[str]:
        page = PageRequest(PAGE)
        while True:
            found = await self._store.page(owner, page)
            for conversation in found.conversations:
                yield conversation.id
            if found.cursor is None:
                return
            page = PageRequest(PAGE, cursor=found.cursor)
            await asyncio.sleep(0)  # a store in memory does not wait, and others have requests

    async def undo(self, owner: str, conversation_id: str, request: UndoRequest) -> UndoResponse:
        """Takes the last `request.turns` turns, or all if there are fewer, out of the current branch.

        They stay stored: `select` brings them back.

        Raises:
            ConversationNotFound, ConversationBusy, HeadChanged.
            NothingToDo: the current branch has no turn.
        """
        async with self._finder.locked(owner, conversation_id, request) as conversation:
            undone = await self._store.branch(conversation, conversation.head_id, request.turns)
            if not undone:
                raise NothingToDo("The conversation has no turn to undo.")
            shorter = conversation.with_head(await self._finder.message(conversation, undone[0].parent_id))
            await self._store.commit(shorter)
        return UndoResponse(
            conversation_id=conversation_id,
            removed_messages=conversation.message_count - shorter.message_count,
            message_count=shorter.message_count,
            head_id=shorter.head_id,
        )

    async def select(self, owner: str, conversation_id: str, request: SelectRequest) -> SelectResponse:
        """Makes the branch of a message the current one, up to the newest message below it.

        Raises:
            ConversationNotFound, MessageNotFound, ConversationBusy, HeadChanged.
        """
        async with self._finder.locked(owner, conversation_id, request) as conversation:
            tree = MessageTree(await self._store.messages(conversation))
            head = tree.newest_leaf(request.message_id)
            await self._store.commit(conversation.with_head(head))
        return SelectResponse(conversation_id=conversation_id, head_id=head.id, message_count=head.depth)

    async def fork(
        self, owner: str, conversation_id: str, request: ForkConversationRequest
    ) -> NewChatResponse:
        """Copies a branch into a new conversation.

        Raises:
            ConversationNotFound, MessageNotFound, QueueFull.
        """
        conversation = await self._store.get(owner, conversation_id)
        branch = await self._store.branch(conversation, request.message_id or conversation.head_id)
        messages = chained(replace(message, id=new_id("msg")) for message in branch)
        copy = Conversation(
            owner=owner,
            title=conversation.title,
            metadata=conversation.metadata,
            system_prompt=conversation.system_prompt,
            model_name=conversation.model_name,
        )
        copy = copy.with_messages(*messages) if messages else copy
        await self._store.commit(copy, messages)
        return self._started(copy, "Conversation forked")

    def _started(self, conversation: Conversation, message: str) -> NewChatResponse:
        return NewChatResponse(
            conversation_id=conversation.id,
            message=message,
            title=conversation.title,
            system_prompt=conversation.system_prompt,
            model_name=conversation.model_name or self._models.current_name,
            message_count=conversation.message_count,
            created_at=conversation.created_at,
        )

    def _check_model(self, name: str | None) -> None:
        if name is not None:
            self._models.find(name)  # raises if no model has the name

    def _check_size(self, conversation: Conversation) -> None:
        limit = self._settings.max_conversation_bytes
        if conversation.size_bytes > limit:
            raise ConversationFull(
                f"The conversation is larger than {limit:,} bytes.",
                hint="Shorten system_prompt, leave out old turns, or raise LLM_MAX_CONVERSATION_BYTES.",
            )
