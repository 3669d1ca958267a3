"""Turns that another server runs are looked at seldom, and without being in anybody's way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from app.core.errors import TurnElsewhere, TurnNotFound
from app.models.storage.memory_store import MemoryStore
from app.models.storage.store import StoredTurn
from app.models.storage.turn_locks import LocalTurnLocks
from app.models.turns.turns_elsewhere import TurnsElsewhere
from tests.waiting import until

NEVER_S = 1e6
WHERE = "conv_1"


class StoreOfAnother(MemoryStore):
    """A store in which each turn runs on another server. It counts the questions for one."""

    def __init__(self) -> None:
        super().__init__(max_conversations=1, ttl_s=NEVER_S, held=frozenset())
        self.questions = 0

    async def find_turn(self, owner: str, message_id: str) -> StoredTurn | None:
        self.questions += 1
        return StoredTurn(message_id, WHERE, None)


def test_followers_of_a_turn_share_one_look() -> None:
    async def scenario() -> None:
        store, locks = StoreOfAnother(), LocalTurnLocks()
        turns = TurnsElsewhere(store, locks, look_every_s=NEVER_S)
        async with locks.hold(WHERE):
            readers = [await turns.follow("ada", "msg_1", 0) for _ in range(20)]
            followers = [asyncio.ensure_future(anext(reader)) for reader in readers]
            await until(lambda: store.questions > 20, "the look")
            for _ in range(100):
                await asyncio.sleep(0)
            assert store.questions == 21
            for follower in followers:
                follower.cancel()
            await asyncio.gather(*followers, return_exceptions=True)

    asyncio.run(scenario())


def test_a_look_at_a_turn_that_runs_does_not_try_its_lock() -> None:
    class CountingLocks(LocalTurnLocks):
        """Counts the locks that were tried."""

        tried = 0

        @asynccontextmanager
        async def hold(self, conversation_id: str) -> AsyncIterator[None]:
            self.tried += 1
            async with super().hold(conversation_id):
                yield

    async def scenario() -> None:
        locks = CountingLocks()
        turns = TurnsElsewhere(StoreOfAnother(), locks)
        async with locks.hold(WHERE):
            with pytest.raises(TurnElsewhere):
                await turns.log("ada", "msg_1")
            assert locks.tried == 1

    asyncio.run(scenario())


def test_looks_at_the_same_time_do_not_refuse_each_other() -> None:
    class SlowLocks(LocalTurnLocks):
        """Locks that take a while, as those in a database do."""

        async def is_held(self, conversation_id: str) -> bool:
            is_held = await super().is_held(conversation_id)
            await asyncio.sleep(0)
            return is_held

        @asynccontextmanager
        async def hold(self, conversation_id: str) -> AsyncIterator[None]:
            async with super().hold(conversation_id):
                await asyncio.sleep(0)
                yield

    async def scenario() -> None:
        turns = TurnsElsewhere(StoreOfAnother(), SlowLocks())
        looks = [turns.log("ada", "msg_1") for _ in range(5)]
        errors = await asyncio.gather(*looks, return_exceptions=True)
        assert [type(error) for error in errors] == [TurnNotFound] * 5

    asyncio.run(scenario())
