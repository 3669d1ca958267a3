import asyncio
import logging
from collections import Counter

import pytest
from hypothesis import given, strategies as st

from app.core.errors import ConversationNotFound, QueueFull
from app.models.conversation import Conversation, text_message
from app.models.storage.memory_store import MemoryStore
from app.models.storage.store import ConversationStore, PageRequest
from app.models.storage.turn_locks import LocalTurnLocks

OWNER = "tests"
ALL = PageRequest(limit=100)


async def put(store: ConversationStore, count: int = 1) -> list[Conversation]:
    made = [Conversation(owner=OWNER) for _ in range(count)]
    for conversation in made:
        await store.commit(conversation)
    return made


async def listed(store: ConversationStore) -> list[str]:
    return [conversation.id for conversation in (await store.page(OWNER, ALL)).conversations]


def memory_store(max_conversations: int = 2) -> tuple[MemoryStore, LocalTurnLocks]:
    locks = LocalTurnLocks()
    return MemoryStore(max_conversations=max_conversations, ttl_s=60, held=locks.held), locks


def test_the_least_recently_used_is_evicted_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        store, _ = memory_store()
        first, second = await put(store, 2)
        await store.get(OWNER, first.id)
        with caplog.at_level(logging.WARNING):
            await put(store)
        assert await store.get(OWNER, first.id) == first
        with pytest.raises(ConversationNotFound):
            await store.get(OWNER, second.id)
        assert second.id in caplog.text

    asyncio.run(scenario())


def test_a_conversation_in_a_turn_is_never_evicted() -> None:
    async def scenario() -> None:
        store, locks = memory_store()
        first, second = await put(store, 2)
        async with locks.hold(first.id):
            await put(store)
            assert await store.get(OWNER, first.id) == first
            with pytest.raises(ConversationNotFound):
                await store.get(OWNER, second.id)

    asyncio.run(scenario())


def test_commit_refuses_a_new_conversation_if_all_are_in_use() -> None:
    async def scenario() -> None:
        store, locks = memory_store(max_conversations=1)
        (only,) = await put(store)
        async with locks.hold(only.id):
            with pytest.raises(QueueFull):
                await put(store)
        assert await listed(store) == [only.id]

    asyncio.run(scenario())


def test_reserve_gives_a_new_conversation_its_place_before_it_is_committed() -> None:
    async def scenario() -> None:
        store, locks = memory_store()
        (old,) = await put(store)
        fresh, late = Conversation(owner=OWNER), Conversation(owner=OWNER)
        async with locks.hold(old.id), locks.hold(fresh.id):
            await store.reserve(fresh)
            async with locks.hold(late.id):
                with pytest.raises(QueueFull):
                    await store.reserve(late)
            with pytest.raises(QueueFull):
                await put(store)
            await store.commit(fresh)
        assert set(await listed(store)) == {old.id, fresh.id}

    asyncio.run(scenario())


def test_reserve_evicts_an_idle_conversation() -> None:
    async def scenario() -> None:
        store, locks = memory_store(max_conversations=1)
        (old,) = await put(store)
        fresh = Conversation(owner=OWNER)
        async with locks.hold(fresh.id):
            await store.reserve(fresh)
        with pytest.raises(ConversationNotFound):
            await store.get(OWNER, old.id)

    asyncio.run(scenario())


def test_an_idle_conversation_expires_and_one_in_a_turn_does_not() -> None:
    now_s = [0.0]

    async def scenario() -> None:
        locks = LocalTurnLocks()
        store = MemoryStore(max_conversations=3, ttl_s=60, held=locks.held, clock=lambda: now_s[0])
        old, busy = await put(store, 2)
        now_s[0] = 50
        (young,) = await put(store)
        now_s[0] = 61
        async with locks.hold(busy.id):
            with pytest.raises(ConversationNotFound):
                await store.get(OWNER, old.id)
            assert set(await listed(store)) == {young.id, busy.id}

    asyncio.run(scenario())


async def fill(
    store: ConversationStore, text: str, conversation: Conversation | None = None, owner: str = OWNER
) -> Conversation:
    """Adds a message with the text to a conversation; to a new one of the owner if it is None."""
    message = text_message("user", text)
    filled = (conversation or Conversation(owner=owner)).with_messages(message)
    await store.commit(filled, [message])
    return filled


def byte_store(max_bytes: int) -> tuple[MemoryStore, LocalTurnLocks]:
    locks = LocalTurnLocks()
    return MemoryStore(max_conversations=10_000, max_bytes=max_bytes, ttl_s=60, held=locks.held), locks


def test_conversations_together_stay_within_a_budget_of_memory() -> None:
    """A text with one emoji takes four bytes a character."""

    async def scenario() -> None:
        store, _ = byte_store(20_000_000)
        for _ in range(50):
            await fill(store, "\N{GRINNING FACE}" + 1_000_000 * "a")
        assert len(await listed(store)) == 4

    asyncio.run(scenario())


def test_a_conversation_that_grows_evicts_others_and_counts_once() -> None:
    async def scenario() -> None:
        store, locks = byte_store(20_000)
        others = [await fill(store, "a" * 3_000) for _ in range(2)]
        growing = await fill(store, "b")
        for _ in range(20):
            await store.commit(growing)
        assert len(await listed(store)) == 3
        async with locks.hold(growing.id), locks.hold(others[1].id):
            await fill(store, "c" * 40_000, growing)
            assert set(await listed(store)) == {growing.id, others[1].id}
            with pytest.raises(QueueFull):
                await fill(store, "new")
        await fill(store, "new")
        await fill(store, "d" * 40_000)  # alone, it may exceed the budget
        assert len(await listed(store)) == 1

    asyncio.run(scenario())


async def owned(store: MemoryStore, owner: str) -> list[str]:
    page = await store.page(owner, PageRequest(limit=100))
    return [each.id for each in page.conversations]


def test_an_owner_beyond_its_share_evicts_its_own_conversations() -> None:
    async def scenario() -> None:
        store = MemoryStore(max_conversations=10, ttl_s=60, held=set())
        bobs = [(await fill(store, "b", owner="bob")).id for _ in range(3)]
        adas = [(await fill(store, "a", owner="ada")).id for _ in range(50)]
        assert await owned(store, "bob") == bobs[::-1]
        assert await owned(store, "ada") == adas[:-8:-1]

    asyncio.run(scenario())


def test_an_owner_within_its_share_takes_room_from_the_one_that_holds_most() -> None:
    async def scenario() -> None:
        store = MemoryStore(max_conversations=10, ttl_s=60, held=set())
        carols = [(await fill(store, "c", owner="carol")).id for _ in range(2)]
        adas = [(await fill(store, "a", owner="ada")).id for _ in range(8)]
        bobs = [(await fill(store, "b", owner="bob")).id for _ in range(20)]
        assert await owned(store, "carol") == carols[::-1]
        assert await owned(store, "bob") == bobs[:-4:-1]  # its share
        assert await owned(store, "ada") == adas[:-6:-1]

    asyncio.run(scenario())


def test_memory_is_shared_among_owners_in_the_same_way() -> None:
    async def scenario() -> None:
        store, _ = byte_store(40_000)
        bobs = [(await fill(store, "b" * 3_000, owner="bob")).id for _ in range(4)]
        long = await fill(store, "a" * 3_000, owner="ada")
        for _ in range(20):
            await fill(store, "a" * 3_000, owner="ada")
        assert await owned(store, "bob") == bobs[::-1]
        assert long.id not in await owned(store, "ada")

    asyncio.run(scenario())


def test_an_owner_whose_conversations_are_all_in_turns_evicts_no_other_beyond_its_share() -> None:
    async def scenario() -> None:
        locks = LocalTurnLocks()
        store = MemoryStore(max_conversations=4, ttl_s=60, held=locks.held)
        bobs = [(await fill(store, "b", owner="bob")).id for _ in range(2)]
        adas = [await fill(store, "a", owner="ada") for _ in range(2)]
        async with locks.hold(adas[0].id), locks.hold(adas[1].id):
            with pytest.raises(QueueFull):
                await fill(store, "a", owner="ada")
        assert await owned(store, "bob") == bobs[::-1]

    asyncio.run(scenario())


def test_an_owner_without_conversations_takes_room_from_one_beyond_its_share() -> None:
    async def scenario() -> None:
        store = MemoryStore(max_conversations=2, ttl_s=60, held=set())
        for owner in ("ada", "bob", "carol"):
            await fill(store, "x", owner=owner)
        assert [len(await owned(store, owner)) for owner in ("ada", "bob", "carol")] == [0, 1, 1]

    asyncio.run(scenario())


def test_a_conversation_that_grows_in_a_turn_takes_memory_from_owners_beyond_their_share() -> None:
    async def scenario() -> None:
        store, locks = byte_store(60_000)
        long = [await fill(store, "x" * 25_000, owner=owner) for owner in ("ada", "bob")]
        new = Conversation(owner="carol")
        async with locks.hold(new.id):
            message = text_message("user", "x" * 30_000)
            await store.commit(new.with_messages(message), (message,))
        assert await owned(store, "ada") == []
        assert await owned(store, "bob") == [long[1].id]
        assert await owned(store, "carol") == [new.id]

    asyncio.run(scenario())


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 4)), max_size=60))
def test_an_owner_within_its_share_loses_nothing(fills: list[tuple[str, int]]) -> None:
    async def scenario() -> None:
        store, made = MemoryStore(max_conversations=9, ttl_s=60, held=set()), Counter[str]()
        for owner, count in fills:
            for _ in range(count):
                await fill(store, "x", owner=owner)
            made[owner] += count
        for owner in made:
            assert len(await owned(store, owner)) >= min(made[owner], 9 // len(made))

    asyncio.run(scenario())
