"""Turns on a stand-in engine: the manager that runs them, and what is read of them."""

import asyncio
from collections.abc import Coroutine, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from app.core.config import Settings
from app.engine.backend import GenerationEvent
from app.models.chat.generation import ChatGenerator
from app.models.chat_manager import ChatModelManager
from app.models.schemas import ChatRequest, ChatResponse, DeltaEvent, StartEvent
from app.models.storage.key_records import MemoryKeyRecords
from app.models.storage.memory_store import MemoryStore
from app.models.storage.store import PageRequest
from app.models.storage.turn_locks import LocalTurnLocks
from app.models.turns.turn_log import EventReader, TurnEvent
from app.models.turns.turn_registry import TurnRegistry
from tests.models.conftest import OWNER
from tests.models.stand_in import HELLO, StandInBackend, StandInModels

HI = ChatRequest(message="hi")
IN_BACKGROUND = ChatRequest(message="hi", background=True)


@dataclass
class World:
    """A manager with all that it needs. `now_s` is the time of its registry."""

    backend: StandInBackend
    store: MemoryStore
    locks: LocalTurnLocks
    keys: MemoryKeyRecords
    now_s: list[float]
    chats: ChatModelManager

    async def count(self) -> int | None:
        """The number of stored conversations."""
        return (await self.store.page(OWNER, PageRequest(limit=100))).total

    async def branch(self, conversation_id: str | None) -> list[str]:
        conversation = await self.store.get(OWNER, str(conversation_id))
        return [each.content for each in await self.store.branch(conversation, conversation.head_id)]


def world(
    reply: Sequence[GenerationEvent] = HELLO,
    *,
    is_endless: bool = False,
    deaths: Sequence[int] = (),
    store_class: type[MemoryStore] = MemoryStore,
    beside: World | None = None,
    **settings: Any,  # as Settings types them
) -> World:
    """With `beside`, the manager of another process that shares the storage of that one."""
    backend = StandInBackend(reply=reply, is_endless=is_endless, deaths=[*deaths])
    locks, keys, now_s = LocalTurnLocks(), MemoryKeyRecords(), [0.0]
    store = store_class(max_conversations=100, ttl_s=600, held=locks.held)
    if beside is not None:
        locks, keys, store = beside.locks, beside.keys, beside.store
    turns = TurnRegistry(clock=lambda: now_s[0])
    generator = ChatGenerator(StandInModels(backend))
    chats = ChatModelManager(Settings(_env_file=None, **settings), store, locks, generator, turns, keys)
    return World(backend, store, locks, keys, now_s, chats)


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scenario, 60))


async def until_text(reader: EventReader) -> StartEvent:
    """Reads until the first text of the reply, and returns the start."""
    start: StartEvent | None = None
    async for record in reader:
        if isinstance(record.event, StartEvent):
            start = record.event
        if isinstance(record.event, DeltaEvent):
            break
    assert start is not None
    return start


def answer_of(events: Sequence[TurnEvent]) -> ChatResponse:
    assert isinstance(events[-1], ChatResponse)
    return events[-1]


async def read_all(reader: EventReader) -> list[TurnEvent]:
    async with aclosing(reader):
        return [record.event async for record in reader]
