"""Stored conversations are created, listed, changed, branched and deleted, without a model."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass

import pytest

from app.core.config import Settings
from app.core.errors import (
    ConversationBusy,
    ConversationFull,
    ConversationNotFound,
    MessageNotFound,
    NothingToDo,
    StoreUnavailable,
)
from app.models.chat.conversations import PAGE, ConversationManager
from app.models.conversation import Conversation, Message, chained, text_message
from app.models.schemas import (
    ForkConversationRequest,
    NewChatRequest,
    SelectRequest,
    TranscriptMessage,
    UndoRequest,
    UpdateConversationRequest,
)
from app.models.storage.memory_store import MemoryStore
from app.models.storage.store import PageRequest
from app.models.storage.turn_locks import LocalTurnLocks
from tests.models.conftest import OWNER
from tests.models.stand_in import StandInBackend, StandInModels

HISTORY = ("one", "first", "two", "second")


@dataclass
class World:
    """A manager with its store."""

    manager: ConversationManager
    store: MemoryStore
    locks: LocalTurnLocks

    async def stored(self, *texts: str, **fields: str) -> tuple[str, tuple[Message, ...]]:
        """A conversation with messages of user and assistant in turn: its id, and the messages."""
        roles = ("user", "assistant")
        made = chained(text_message(roles[at % 2], text) for at, text in enumerate(texts))  # type: ignore[arg-type]
        conversation = Conversation(owner=OWNER, **fields)  # type: ignore[arg-type]
        conversation = conversation.with_messages(*made) if made else conversation
        await self.store.commit(conversation, made)
        return conversation.id, made

    async def contents(self, conversation_id: str, *, is_tree: bool = False) -> list[str]:
        held = await self.manager.get(OWNER, conversation_id, is_tree=is_tree)
        return [message.content for message in held.messages]


Scenario = Callable[[World], Coroutine[None, None, None]]


class FillingStore(MemoryStore):
    """Fails after a number of deletions, as a database on a disk that becomes full."""

    deletions_left = 2

    async def delete(self, conversation: Conversation) -> None:
        if not self.deletions_left:
            raise StoreUnavailable("The disk is full.", hint="Nothing was changed.", retry_after=5)
        self.deletions_left -= 1
        await super().delete(conversation)


def run(scenario: Scenario, max_bytes: int = 1_000_000, store_class: type[MemoryStore] = MemoryStore) -> None:
    locks = LocalTurnLocks()
    store = store_class(max_conversations=1_000, ttl_s=600, held=locks.held)
    settings = Settings(system_prompt="Be brief.", max_conversation_bytes=max_bytes, _env_file=None)
    manager = ConversationManager(settings, store, locks, StandInModels(StandInBackend()))
    asyncio.run(asyncio.wait_for(scenario(World(manager, store, locks)), 60))


def said(question: str, answer: str) -> list[TranscriptMessage]:
    return [
        TranscriptMessage(role="user", content=question),
        TranscriptMessage(role="assistant", content=answer),
    ]


def test_new_takes_the_settings_prompt_unless_the_request_has_one() -> None:
    async def scenario(world: World) -> None:
        plain = await world.manager.new(OWNER, NewChatRequest())
        assert (plain.system_prompt, plain.message_count, plain.model_name) == ("Be brief.", 0, "stand-in")
        own = await world.manager.new(OWNER, NewChatRequest(system_prompt="", title="mine", model_name="m"))
        assert (own.system_prompt, own.title, own.model_name) == ("", "mine", "m")
        stored = await world.store.get(OWNER, own.conversation_id)
        assert (stored.owner, stored.system_prompt, stored.title) == (OWNER, "", "mine")

    run(scenario)


def test_new_restores_a_transcript() -> None:
    async def scenario(world: World) -> None:
        said = [
            TranscriptMessage(role="user", content="hi"),
            TranscriptMessage(role="assistant", content="oh"),
        ]
        made = await world.manager.new(OWNER, NewChatRequest(messages=said))
        assert made.message_count == 2
        assert await world.contents(made.conversation_id) == ["hi", "oh"]

    run(scenario)


def test_new_that_is_too_large_is_refused() -> None:
    async def scenario(world: World) -> None:
        with pytest.raises(ConversationFull, match="1,000 bytes"):
            await world.manager.new(OWNER, NewChatRequest(messages=said("x" * 2_000, "y")))
        assert (await world.manager.list(OWNER, PageRequest(limit=9))).total == 0

    run(scenario, max_bytes=1_000)


def test_undo_moves_the_head_and_select_brings_it_back() -> None:
    async def scenario(world: World) -> None:
        key, messages = await world.stored(*HISTORY)
        undone = await world.manager.undo(OWNER, key, UndoRequest(turns=1))
        assert (undone.removed_messages, undone.message_count, undone.head_id) == (2, 2, messages[1].id)
        assert await world.contents(key) == ["one", "first"]
        assert await world.contents(key, is_tree=True) == list(HISTORY)
        selected = await world.manager.select(OWNER, key, SelectRequest(message_id=messages[2].id))
        assert (selected.head_id, selected.message_count) == (messages[3].id, 4)
        assert await world.contents(key) == list(HISTORY)
        everything = await world.manager.undo(OWNER, key, UndoRequest(turns=9))
        assert (everything.removed_messages, everything.head_id) == (4, None)
        with pytest.raises(NothingToDo):
            await world.manager.undo(OWNER, key, UndoRequest(turns=1))
        with pytest.raises(MessageNotFound):
            await world.manager.select(OWNER, key, SelectRequest(message_id="msg_nothing"))

    run(scenario)


@pytest.mark.parametrize(("at", "expected"), [(None, list(HISTORY)), (1, ["one", "first"])])
def test_fork_copies_a_branch_with_new_ids(at: int | None, expected: list[str]) -> None:
    async def scenario(world: World) -> None:
        key, messages = await world.stored(*HISTORY, title="old", system_prompt="Rhyme.", model_name="m")
        request = ForkConversationRequest(message_id=None if at is None else messages[at].id)
        forked = await world.manager.fork(OWNER, key, request)
        assert forked.conversation_id != key
        assert (forked.title, forked.system_prompt, forked.model_name) == ("old", "Rhyme.", "m")
        assert forked.message_count == len(expected)
        held = await world.manager.get(OWNER, forked.conversation_id)
        assert [message.content for message in held.messages] == expected
        assert not {message.id for message in held.messages} & {message.id for message in messages}
        assert await world.contents(key) == list(HISTORY)

    run(scenario)


def test_fork_of_an_empty_conversation_is_empty() -> None:
    async def scenario(world: World) -> None:
        key, _ = await world.stored(title="empty")
        assert (await world.manager.fork(OWNER, key, ForkConversationRequest())).message_count == 0

    run(scenario)


def test_update_changes_only_what_the_request_names() -> None:
    async def scenario(world: World) -> None:
        key, _ = await world.stored(*HISTORY, title="old", system_prompt="Rhyme.")
        before = await world.store.get(OWNER, key)
        changed = await world.manager.update(OWNER, key, UpdateConversationRequest(title="new"))
        assert (changed.title, changed.system_prompt) == ("new", "Rhyme.")
        assert changed.updated_at > before.updated_at
        changed = await world.manager.update(OWNER, key, UpdateConversationRequest(model_name="m"))
        assert (changed.title, changed.model_name) == ("new", "m")
        changed = await world.manager.update(OWNER, key, UpdateConversationRequest(title=None))
        assert (changed.title, len(changed.messages)) == (None, 4)

    run(scenario)


def test_a_conversation_in_a_turn_is_not_changed() -> None:
    async def scenario(world: World) -> None:
        key, messages = await world.stored(*HISTORY)
        manager = world.manager
        async with world.locks.hold(key):
            for change in (
                manager.undo(OWNER, key, UndoRequest(turns=1)),
                manager.select(OWNER, key, SelectRequest(message_id=messages[0].id)),
                manager.update(OWNER, key, UpdateConversationRequest(title="new")),
                manager.delete(OWNER, key),
            ):
                with pytest.raises(ConversationBusy):
                    await change
        assert await world.contents(key) == list(HISTORY)

    run(scenario)


def test_list_names_limit_offset_and_how_to_go_on() -> None:
    async def scenario(world: World) -> None:
        keys = [(await world.stored("question", title=f"t{number}"))[0] for number in range(5)]
        page = await world.manager.list(OWNER, PageRequest(limit=2, offset=1))
        assert (page.total, page.limit, page.offset) == (5, 2, 1)
        assert [each.conversation_id for each in page.conversations] == [keys[3], keys[2]]
        assert [(each.title, each.message_count, each.preview) for each in page.conversations] == [
            ("t3", 1, "question"),
            ("t2", 1, "question"),
        ]
        rest = await world.manager.list(OWNER, PageRequest(limit=9, cursor=page.next_cursor))
        assert [each.conversation_id for each in rest.conversations] == [keys[1], keys[0]]
        assert rest.next_cursor is None

    run(scenario)


def test_a_deleted_conversation_is_gone() -> None:
    async def scenario(world: World) -> None:
        key, _ = await world.stored(*HISTORY)
        assert (await world.manager.delete(OWNER, key)).conversation_id == key
        with pytest.raises(ConversationNotFound):
            await world.manager.get(OWNER, key)
        with pytest.raises(ConversationNotFound):
            await world.manager.delete(OWNER, key)

    run(scenario)


def test_delete_all_removes_the_conversations_of_one_owner_but_not_those_in_a_turn() -> None:
    async def scenario(world: World) -> None:
        for _ in range(2 * PAGE):
            await world.stored(*HISTORY)
        busy, _ = await world.stored(*HISTORY)
        await world.store.commit(Conversation(owner="somebody else"))
        async with world.locks.hold(busy):
            answer = await world.manager.delete_all(OWNER)
        assert (answer.deleted, answer.kept) == (2 * PAGE, 1)
        left = await world.manager.list(OWNER, PageRequest(limit=9))
        assert [each.conversation_id for each in left.conversations] == [busy]
        assert (await world.manager.list("somebody else", PageRequest(limit=9))).total == 1
        again = await world.manager.delete_all(OWNER)
        assert (again.deleted, again.kept) == (1, 0)

    run(scenario)


def test_delete_all_that_fails_halfway_reports_how_many_are_gone() -> None:
    async def scenario(world: World) -> None:
        for _ in range(5):
            await world.stored(*HISTORY)
        with pytest.raises(StoreUnavailable, match="The disk is full") as caught:
            await world.manager.delete_all(OWNER)
        assert (caught.value.hint, caught.value.retry_after) == (
            "Conversations deleted before: 2. Try again later.",
            5,
        )
        assert (await world.manager.list(OWNER, PageRequest(limit=1))).total == 3

    run(scenario, store_class=FillingStore)


def test_delete_all_lets_others_run_between_its_pages() -> None:
    async def scenario(world: World) -> None:
        for _ in range(2 * PAGE):
            await world.stored()
        deletion = asyncio.create_task(world.manager.delete_all(OWNER))
        left = 2 * PAGE
        while left == 2 * PAGE:
            await asyncio.sleep(0)
            left = (await world.manager.list(OWNER, PageRequest(limit=1))).total or 0
        assert left == PAGE
        await deletion

    run(scenario)
