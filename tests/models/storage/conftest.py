"""Runs the tests of stores on each store: in memory, in SQLite, and in PostgreSQL where it is installed."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from app.models.storage.memory_store import MemoryStore
from app.models.storage.sql.database import Database
from app.models.storage.sql.sql_store import SqlStore
from app.models.storage.sql.turns.leases import LeaseLocks
from app.models.storage.store import ConversationStore
from tests.waiting import LIMIT_S

Scenario = Callable[[ConversationStore], Coroutine[None, None, None]]
Run = Callable[[Scenario], None]


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Runs a scenario on an empty store."""
    if request.param == "memory":
        return run_on_memory
    url = url_of(request, tmp_path)
    return lambda scenario: run_on_database(url, scenario)


@pytest.fixture(params=["sqlite", "postgresql"])
def run_broad(request: pytest.FixtureRequest, tmp_path: Path) -> Run:
    """Runs a scenario on an empty store that treats every search as one that finds many conversations."""
    url = url_of(request, tmp_path)
    return lambda scenario: run_on_database(url, scenario, many=0)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of each kind."""
    return url_of(request, tmp_path)


def url_of(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database of the kind in the fixture's parameter."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'conversations.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


def run_on_memory(scenario: Scenario) -> None:
    store = MemoryStore(max_conversations=1_000, ttl_s=600, held=set())
    asyncio.run(asyncio.wait_for(scenario(store), LIMIT_S))


def run_on_database(url: str, scenario: Scenario, **options: int) -> None:
    async def on_store() -> None:
        async with opened(url) as database:
            await scenario(SqlStore(database, LeaseLocks(database), **options))

    asyncio.run(asyncio.wait_for(on_store(), LIMIT_S))


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Database]:
    """The database with its tables."""
    database = Database(url)
    try:
        await database.open()
        yield database
    finally:
        await database.close()
