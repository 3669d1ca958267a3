import asyncio
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, create_engine, insert, text

from app.core.errors import StoreUnavailable
from app.models.conversation import Conversation
from app.models.storage.sql.database import Database
from app.models.storage.sql.migrations.upgrade import VERSION_TABLE, bring_up_to_date
from app.models.storage.sql.rows import conversation_values
from app.models.storage.sql.sql_store import SqlStore
from app.models.storage.sql.tables import conversations, metadata
from app.models.storage.sql.text_index import owner_tag
from app.models.storage.sql.turns.leases import LeaseLocks
from app.models.storage.store import PageRequest
from tests.models.storage.conftest import opened

FULL_TEXT = "search_texts"  # a table that SQLAlchemy does not know, with some of FTS5's own in SQLite


def differences(connection: Connection) -> list[object]:
    def is_ours(name: str | None, kind: str, parents: object) -> bool:
        return kind != "table" or not str(name).startswith(FULL_TEXT)

    options = {"version_table": VERSION_TABLE, "include_name": is_ours}
    found: list[object] = compare_metadata(MigrationContext.configure(connection, opts=options), metadata)
    return found


def test_migrations_make_the_tables_that_the_store_expects(database_url: str) -> None:
    async def scenario() -> None:
        async with opened(database_url) as database, database.reading() as connection:
            assert await connection.run_sync(differences) == []

    asyncio.run(scenario())


def test_several_servers_may_create_the_tables_at_once(database_url: str) -> None:
    async def scenario() -> None:
        databases = [Database(database_url) for _ in range(4)]
        await asyncio.gather(*(database.open() for database in databases))
        assert [database.failure for database in databases] == [None] * 4
        for database in databases:
            await database.close()

    asyncio.run(scenario())


def test_a_database_of_a_newer_program_is_left_alone(database_url: str) -> None:
    async def scenario() -> None:
        async with opened(database_url) as database, database.writing() as connection:
            await connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'"))
        newer = Database(database_url)
        with pytest.raises(StoreUnavailable, match="newer version"):
            await newer.open()
        assert newer.failure is not None
        await newer.close()

    asyncio.run(scenario())


def test_texts_of_an_older_database_are_still_found(tmp_path: Path) -> None:
    """Its index knew no beginnings of words."""
    url = f"sqlite:///{tmp_path / 'conversations.db'}"
    rain = Conversation(owner="tests", title="rain")
    with create_engine(url).begin() as connection:
        bring_up_to_date(connection, "0002")
        connection.execute(insert(conversations), conversation_values(rain) | {"number": 1})
        words = {"rowid": 1 << 24, "words": f"{owner_tag('tests')}rain"}
        connection.execute(text("INSERT INTO search_texts(rowid, words) VALUES(:rowid, :words)"), words)

    async def scenario() -> None:
        async with opened(url) as database:
            store = SqlStore(database, LeaseLocks(database))
            for query in ("r", "ra", "rai", "rain"):
                page = await store.page("tests", PageRequest(limit=1, query=query))
                assert (page.total, page.conversations) == (1, (rain,))
            assert (await store.page("tests", PageRequest(limit=1, query="rainy"))).total == 0
            await store.delete(rain)
            assert (await store.page("tests", PageRequest(limit=1, query="rain"))).total == 0

    asyncio.run(scenario())
