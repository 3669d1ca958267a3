import asyncio
import logging

import pytest

from app.core.errors import ConversationNotFound, QueueFull
from app.models.chat.store import ConversationStore, MemoryStore
from app.models.chat.turn_locks import TurnLocks
from app.models.conversation import Conversation, Message


async def put(store: ConversationStore, count: int = 1) -> list[Conversation]:
    made = [Conversation() for _ in range(count)]
    for conversation in made:
        await store.put(conversation)
    return made


def memory_store(max_conversations: int = 2) -> tuple[MemoryStore, TurnLocks]:
    locks = TurnLocks()
    return MemoryStore(max_conversations=max_conversations, ttl_s=60, held=locks.held), locks


def test_the_least_recently_used_is_evicted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        store, _ = memory_store()
        first, second = await put(store, 2)
        await store.get(first.id)
        with caplog.at_level(logging.WARNING):
            await put(store)
        assert await store.get(first.id) is first
        with pytest.raises(ConversationNotFound):
            await store.get(second.id)
        assert second.id in caplog.text

    asyncio.run(scenario())


def test_a_conversation_in_a_turn_is_never_evicted() -> None:
    async def scenario() -> None:
        store, locks = memory_store()
        first, second = await put(store, 2)
        with locks.hold(first.id):
            await put(store)
            assert await store.get(first.id) is first
            with pytest.raises(ConversationNotFound):
                await store.get(second.id)

    asyncio.run(scenario())


def test_put_refuses_a_new_conversation_if_all_are_in_use() -> None:
    async def scenario() -> None:
        store, locks = memory_store(max_conversations=1)
        (only,) = await put(store)
        with locks.hold(only.id), pytest.raises(QueueFull):
            await put(store)
        assert await store.get(only.id) is only

    asyncio.run(scenario())


def test_reserve_gives_a_new_conversation_its_place_before_it_is_put() -> None:
    async def scenario() -> None:
        store, locks = memory_store()
        (old,) = await put(store)
        fresh, late = Conversation(), Conversation()
        with locks.hold(old.id), locks.hold(fresh.id):
            await store.reserve(fresh.id)
            with locks.hold(late.id), pytest.raises(QueueFull):
                await store.reserve(late.id)
            with pytest.raises(QueueFull):
                await put(store)
            await store.put(fresh)
        assert await store.get(fresh.id) is fresh
        assert (await store.page(limit=10, offset=0)).total == 2

    asyncio.run(scenario())


def test_reserve_evicts_an_idle_conversation() -> None:
    async def scenario() -> None:
        store, locks = memory_store(max_conversations=1)
        (old,) = await put(store)
        with locks.hold("conv_new"):
            await store.reserve("conv_new")
        with pytest.raises(ConversationNotFound):
            await store.get(old.id)

    asyncio.run(scenario())


def test_delete_removes_a_conversation_once() -> None:
    async def scenario() -> None:
        store, _ = memory_store()
        (only,) = await put(store)
        await store.delete(only.id)
        with pytest.raises(ConversationNotFound):
            await store.delete(only.id)

    asyncio.run(scenario())


def test_an_idle_conversation_expires_and_one_in_a_turn_does_not() -> None:
    now_s = [0.0]

    async def scenario() -> None:
        locks = TurnLocks()
        store = MemoryStore(max_conversations=3, ttl_s=60, held=locks.held, clock=lambda: now_s[0])
        old, busy = await put(store, 2)
        now_s[0] = 50
        (young,) = await put(store)
        now_s[0] = 61
        with locks.hold(busy.id):
            with pytest.raises(ConversationNotFound):
                await store.get(old.id)
            assert (await store.page(limit=10, offset=0)).conversations == (young, busy)

    asyncio.run(scenario())


def test_page_lists_the_most_recently_used_first() -> None:
    async def scenario() -> None:
        store, _ = memory_store(max_conversations=3)
        first, second, third = await put(store, 3)
        await store.get(first.id)
        page = await store.page(limit=2, offset=0)
        assert (page.conversations, page.total) == ((first, third), 3)
        assert (await store.page(limit=2, offset=2)).conversations == (second,)

    asyncio.run(scenario())


def filled(text: str) -> Conversation:
    return Conversation().with_message(Message("user", text))


def byte_store(max_bytes: int) -> tuple[MemoryStore, TurnLocks]:
    locks = TurnLocks()
    return MemoryStore(max_conversations=10_000, max_bytes=max_bytes, ttl_s=60, held=locks.held), locks


def test_conversations_together_stay_within_a_budget_of_memory() -> None:
    """A text with one emoji takes four bytes a character."""

    async def scenario() -> None:
        store, _ = byte_store(20_000_000)
        for _ in range(50):
            await store.put(filled("\N{GRINNING FACE}" + 1_000_000 * "a"))
        page = await store.page(limit=100, offset=0)
        assert page.total == 4
        assert sum(conversation.memory_bytes for conversation in page.conversations) <= 20_000_000

    asyncio.run(scenario())


def test_a_conversation_that_grows_evicts_others_and_counts_once() -> None:
    async def scenario() -> None:
        store, locks = byte_store(10_000)
        others = [filled("a" * 3000) for _ in range(2)]
        growing = filled("b")
        for conversation in (*others, growing):
            await store.put(conversation)
        for _ in range(20):
            await store.put(growing)
        assert (await store.page(limit=9, offset=0)).total == 3
        with locks.hold(growing.id), locks.hold(others[1].id):
            await store.put(growing.with_message(Message("user", "c" * 20_000)))
            assert [each.id for each in (await store.page(limit=9, offset=0)).conversations] == [
                growing.id,
                others[1].id,
            ]
            with pytest.raises(QueueFull):
                await store.put(filled("new"))
        await store.put(filled("new"))
        await store.put(filled("d" * 20_000))  # alone, it may exceed the budget
        assert (await store.page(limit=9, offset=0)).total == 1

    asyncio.run(scenario())
