import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
from sqlalchemy import select, text, update

from app.core.errors import ConversationBusy
from app.models.conversation import Conversation
from app.models.storage.sql.database import Database
from app.models.storage.sql.sql_store import SqlStore
from app.models.storage.sql.tables import turn_leases
from app.models.storage.sql.turns.leases import LeaseLocks
from tests.models.storage.conftest import opened
from tests.waiting import LIMIT_S

ELSEWHERE = "another machine/1/1.0/x/x"


async def holders(database: Database) -> list[str]:
    async with database.reading() as connection:
        return list((await connection.scalars(select(turn_leases.c.holder))).all())


async def hand_over(database: Database, holder: str) -> None:
    """Gives all leases to another process, for a long time."""
    async with database.writing() as connection:
        await connection.execute(update(turn_leases).values(holder=holder, expires_at=1e12))


@asynccontextmanager
async def servers(url: str, count: int = 2) -> AsyncIterator[list[tuple[Database, LeaseLocks]]]:
    """Databases and locks as several servers have them, all in this process."""
    async with AsyncExitStack() as stack:
        databases = [await stack.enter_async_context(opened(url)) for _ in range(count)]
        yield [(database, LeaseLocks(database)) for database in databases]


def test_hold_keeps_out_the_turns_of_this_process(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url, 1) as [(database, locks)]:
            async with locks.hold("conv_1"), locks.hold("conv_2"):
                with pytest.raises(ConversationBusy):
                    async with locks.hold("conv_1"):
                        pass
            assert await holders(database) == []

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_hold_keeps_out_the_turns_of_other_machines_until_the_lease_expires(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url, 1) as [(database, locks)]:
            async with locks.hold("conv_1"):
                await hand_over(database, ELSEWHERE)
            with pytest.raises(ConversationBusy):
                async with locks.hold("conv_1"):
                    pass
            async with database.writing() as connection:
                await connection.execute(update(turn_leases).values(expires_at=1.0))
            async with locks.hold("conv_1"):
                assert await holders(database) != [ELSEWHERE]

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_of_many_turns_at_once_one_gets_the_lock(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url, 4) as made:
            holding, outcomes = asyncio.Event(), list[str]()

            async def turn(locks: LeaseLocks) -> None:
                try:
                    async with locks.hold("conv_1"):
                        outcomes.append("held")
                        await asyncio.wait_for(holding.wait(), LIMIT_S)
                except ConversationBusy:
                    outcomes.append("busy")
                if len(outcomes) == len(made):
                    holding.set()

            await asyncio.gather(*(turn(locks) for _, locks in made))
            assert sorted(outcomes) == ["busy"] * 3 + ["held"]

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_a_lease_of_a_process_that_ended_is_void(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url, 1) as [(database, locks)]:
            async with locks.hold("conv_1"):
                [holder] = await holders(database)
                machine = holder.split("/")[0]
                await hand_over(database, f"{machine}/999999999/1.0/x/x")
            async with locks.hold("conv_1"):
                assert len(await holders(database)) == 1

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_clear_removes_leases_that_nobody_holds(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url, 1) as [(database, locks)]:
            async with locks.hold("conv_1"):
                await hand_over(database, ELSEWHERE)
            async with locks.hold("conv_2"):
                await locks.clear()
                assert len(await holders(database)) == 2
            async with database.writing() as connection:
                await connection.execute(text("UPDATE turn_leases SET expires_at = 1"))
            await locks.clear()
            assert await holders(database) == []

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_a_held_lease_is_renewed(database_url: str) -> None:
    async def scenario() -> None:
        async with opened(database_url) as database:
            locks = LeaseLocks(database, renew_every_s=0.01)
            async with locks.hold("conv_1"):
                first = await expiry(database)
                while await expiry(database) <= first:
                    await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


async def expiry(database: Database) -> float:
    async with database.reading() as connection:
        return float(await connection.scalar(select(turn_leases.c.expires_at)) or 0)


def test_a_turn_that_lost_its_lease_changes_nothing(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url, 1) as [(database, locks)]:
            store, conversation = SqlStore(database, locks), Conversation(title="old")
            await store.commit(conversation)
            async with locks.hold(conversation.id):
                await hand_over(database, ELSEWHERE)
                for change in (store.commit(Conversation(id=conversation.id)), store.delete(conversation)):
                    with pytest.raises(ConversationBusy, match="taken the conversation over"):
                        await change
            assert await store.get(conversation.owner, conversation.id) == conversation

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))
