"""The contract of KeyRecords. A store of these records gets a parameter in `records`."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from app.models.conversation import new_id, now
from app.models.storage.key_records import KEY_LIFETIME, KeyRecord, KeyRecords, MemoryKeyRecords
from app.models.storage.sql.sql_key_records import SqlKeyRecords
from tests.models.storage.conftest import opened, url_of
from tests.waiting import LIMIT_S

Scenario = Callable[[KeyRecords], Coroutine[None, None, None]]
Run = Callable[[Scenario], None]


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Runs a scenario without records."""

    async def on_database(scenario: Scenario, url: str) -> None:
        async with opened(url) as database:
            await scenario(SqlKeyRecords(database))

    if request.param == "memory":
        return lambda scenario: asyncio.run(scenario(MemoryKeyRecords()))
    url = url_of(request, tmp_path)
    return lambda scenario: asyncio.run(asyncio.wait_for(on_database(scenario, url), LIMIT_S))


def record(owner: str = "ada", key: str = "k1", body_hash: bytes = b"hash") -> KeyRecord:
    return KeyRecord(owner, key, body_hash, new_id("conv"), new_id("msg"))


def test_first_claim_of_a_key_stays(run: Run) -> None:
    async def scenario(records: KeyRecords) -> None:
        first, again = record(), record(body_hash=b"other")
        assert await records.claim(first) == first
        assert await records.claim(again) == first

    run(scenario)


def test_of_claims_at_the_same_moment_one_is_stored(run: Run) -> None:
    async def scenario(records: KeyRecords) -> None:
        claims = [record() for _ in range(20)]
        stored = set(await asyncio.gather(*map(records.claim, claims)))
        assert len(stored) == 1 and stored < set(claims)

    run(scenario)


def test_keys_of_owners_are_apart(run: Run) -> None:
    async def scenario(records: KeyRecords) -> None:
        claims = [record(), record(owner="bob"), record(key="k2")]
        assert [await records.claim(each) for each in claims] == claims

    run(scenario)


def test_released_key_can_be_claimed_again(run: Run) -> None:
    async def scenario(records: KeyRecords) -> None:
        first, second = record(), record()
        await records.claim(first)
        await records.release(first)
        assert await records.claim(second) == second
        await records.release(first)  # too late: the key is another record's
        assert await records.claim(record()) == second

    run(scenario)


def test_claims_beside_releases_always_get_a_record(run: Run) -> None:
    async def claim_and_release(records: KeyRecords) -> None:
        for _ in range(15):
            own = record()
            stored = await records.claim(own)
            if stored == own:
                await records.release(own)

    async def scenario(records: KeyRecords) -> None:
        async with asyncio.TaskGroup() as claims:
            for _ in range(8):
                claims.create_task(claim_and_release(records))
        last = record()
        assert await records.claim(last) == last

    run(scenario)


def test_a_record_lasts_a_day(run: Run) -> None:
    async def scenario(records: KeyRecords) -> None:
        first = record()
        await records.claim(first)
        almost = now() + KEY_LIFETIME - timedelta(minutes=1)
        assert await records.claim(replace(record(), created_at=almost)) == first
        late = replace(record(), created_at=first.created_at + KEY_LIFETIME)
        assert await records.claim(late) == late

    run(scenario)


def test_records_in_memory_are_bounded() -> None:
    async def scenario() -> None:
        records = MemoryKeyRecords(max_records=2)
        first, *others = (record(key=key) for key in ("k1", "k2", "k3"))
        for each in (first, *others):
            await records.claim(each)
        assert [await records.claim(record(key=each.key)) for each in others] == others
        again = record(key="k1")
        assert await records.claim(again) == again

    asyncio.run(scenario())
