"""What ChatModelManager does before, during and after a turn, on a stand-in engine."""

import asyncio

import pytest

from app.core.config import Settings
from app.core.errors import QueueFull
from app.models.chat.generation import ChatGenerator
from app.models.chat_manager import ChatModelManager
from app.models.conversation import Conversation
from app.models.schemas import ChatRequest, ChatResponse, ContinueRequest, RegenerateRequest
from app.models.storage.key_records import MemoryKeyRecords
from app.models.storage.memory_store import MemoryStore
from app.models.storage.store import ConversationStore
from app.models.storage.turn_locks import LocalTurnLocks
from app.models.turns.turn_registry import TurnRegistry
from tests.models.conftest import OWNER, read, soon
from tests.models.stand_in import HELLO, StandInBackend, StandInModels


class SlowlyReadStore(MemoryStore):
    """A store whose first `get` returns what it read when it was called, but only once it is released."""

    def __init__(self, locks: LocalTurnLocks) -> None:
        super().__init__(max_conversations=10, ttl_s=60, held=locks.held)
        self.reading = asyncio.Event()
        self.released = asyncio.Event()

    async def get(self, owner: str, conversation_id: str) -> Conversation:
        conversation = await super().get(owner, conversation_id)
        if not self.reading.is_set():
            self.reading.set()
            await self.released.wait()
        return conversation


def stand_in_models() -> StandInModels:
    return StandInModels(StandInBackend(reply=HELLO))


def manager(models: StandInModels, store: ConversationStore, locks: LocalTurnLocks) -> ChatModelManager:
    turns, keys = TurnRegistry(), MemoryKeyRecords()
    return ChatModelManager(Settings(_env_file=None), store, locks, ChatGenerator(models), turns, keys)


async def stored(store: ConversationStore) -> str:
    """The id of a new, empty conversation."""
    conversation = Conversation(owner=OWNER)
    await store.commit(conversation)
    return conversation.id


def test_loading_and_generating_have_one_deadline_together() -> None:
    models, locks = stand_in_models(), LocalTurnLocks()
    store = MemoryStore(max_conversations=1, ttl_s=60, held=locks.held)
    chats = manager(models, store, locks)

    async def scenario() -> None:
        made = await stored(store)
        await read(chats.chat(OWNER, ChatRequest(message="hi", conversation_id=made), soon()))
        await read(chats.regenerate(OWNER, made, RegenerateRequest(), soon()))
        await read(chats.continue_reply(OWNER, made, ContinueRequest(), soon()))

    asyncio.run(scenario())
    assert models.deadlines == models.backend.deadlines
    assert len(models.deadlines) == 3


def test_a_new_conversation_that_finds_no_place_is_refused_before_anything_is_generated() -> None:
    models, locks = stand_in_models(), LocalTurnLocks()
    store = MemoryStore(max_conversations=1, ttl_s=60, held=locks.held)
    chats = manager(models, store, locks)

    async def scenario() -> None:
        made = await stored(store)
        async with locks.hold(made):
            with pytest.raises(QueueFull):
                await read(chats.chat(OWNER, ChatRequest(message="hi"), soon()))
        assert not models.leased
        assert not locks.held
        await read(chats.chat(OWNER, ChatRequest(message="hi"), soon()))

    asyncio.run(scenario())


def test_a_turn_reads_its_conversation_after_the_turn_before_it_was_committed() -> None:
    async def scenario() -> None:
        models, locks = stand_in_models(), LocalTurnLocks()
        store = SlowlyReadStore(locks)
        chats = manager(models, store, locks)
        made = await stored(store)
        request = ChatRequest(message="hi", conversation_id=made)

        late = asyncio.create_task(read(chats.chat(OWNER, request, soon())))
        await store.reading.wait()  # the late turn has found its conversation, and holds no lock yet
        await read(chats.chat(OWNER, request, soon()))
        store.released.set()
        response = (await late)[-1]
        assert isinstance(response, ChatResponse)
        assert response.message_count == 4

    asyncio.run(asyncio.wait_for(scenario(), timeout=30))
