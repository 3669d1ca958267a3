"""A clock that was set forward takes no lease from a process that still runs."""

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import update

from app.core.errors import ConversationBusy
from app.models.storage.sql.tables import turn_leases
from app.models.storage.sql.turns.lease_watch import Lease, LeaseWatch
from app.models.storage.sql.turns.process_identity import this_process
from tests.models.storage.sql.test_leases import ELSEWHERE, servers
from tests.waiting import LIMIT_S

LATE = Lease("conv_1", f"{this_process()}/x/x", 1.0, is_late=True)


def test_late_lease_of_a_process_that_runs_here_is_left_if_it_is_not_renewed() -> None:
    now = 100.0
    watch = LeaseWatch(30, clock=lambda: now)
    assert not watch.is_left(LATE)
    now += 29
    renewed = replace(LATE, expires_at=2.0)
    assert not watch.is_left(renewed)
    now += 29
    assert not watch.is_left(renewed)
    now += 2
    assert watch.is_left(renewed)
    watch.forget_others({"conv_2"})
    assert not watch.is_left(renewed)


def test_other_leases_are_left_when_they_are_late_or_their_process_has_ended() -> None:
    watch = LeaseWatch(30)
    assert watch.is_left(replace(LATE, holder=ELSEWHERE))
    assert not watch.is_left(replace(LATE, holder=ELSEWHERE, is_late=False))
    assert not watch.is_left(replace(LATE, is_late=False))
    machine = this_process().split("/")[0]
    assert watch.is_left(replace(LATE, holder=f"{machine}/999999999/1.0/x/x", is_late=False))


def test_clock_that_is_set_forward_takes_no_turn_from_a_server_that_runs(database_url: str) -> None:
    async def scenario() -> None:
        async with servers(database_url) as [(database, locks), (_, others)], locks.hold("conv_1"):
            async with database.writing() as connection:  # the same as a clock that is set forward
                await connection.execute(update(turn_leases).values(expires_at=1.0))
            with pytest.raises(ConversationBusy):
                async with others.hold("conv_1"):
                    pass
            await others.clear()
            assert await others.held() == {"conv_1"}
            async with database.writing() as connection:
                await locks.confirm(connection, "conv_1")

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))
