"""Connections to an SQLite file, which only the first one creates."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import URL, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.config import SettingsError
from app.models.storage.sql.engine import ConnectionThreads, make_engine
from app.models.storage.store import ConversationStore
from tests.models.storage.conftest import run_on_database
from tests.models.storage.test_store import OWNER, stored
from tests.waiting import LIMIT_S


async def schema_version(engine: AsyncEngine) -> int | None:
    """Reads it over a new connection."""
    async with engine.connect() as connection:
        found: int | None = await connection.scalar(text("PRAGMA schema_version"))
    await engine.dispose()
    return found


@pytest.mark.parametrize("name", ["c.db", "a b.db", "what?mode=ro.db", "50%25.db", "#1.db", "süß.db"])
def test_a_file_that_was_opened_is_never_created_again(tmp_path: Path, name: str) -> None:
    path, url = tmp_path / name, URL.create("sqlite", database=str(tmp_path / name))

    async def scenario() -> None:
        threads = ConnectionThreads()
        engine = make_engine(url.render_as_string(), 1.0, threads)
        assert await schema_version(engine) == 0 and path.exists()
        threads.expect_file()
        assert await schema_version(engine) == 0
        path.unlink()
        with pytest.raises(OperationalError, match="unable to open"):
            await schema_version(engine)
        await engine.dispose()
        await threads.wait()
        assert list(tmp_path.iterdir()) == []

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


@pytest.mark.parametrize("url", ["sqlite:///file:{path}?uri=true", "sqlite:///{path}?uri=true"])
def test_the_setting_may_name_a_file_as_sqlite_does(tmp_path: Path, url: str) -> None:
    path = tmp_path / "c.db"

    async def scenario() -> None:
        threads = ConnectionThreads()
        assert await schema_version(make_engine(url.format(path=path), 1.0, threads)) == 0
        await threads.wait()
        assert path.exists()

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


@pytest.mark.parametrize("port", ["0", "65536", "99999", "-1", "port"])
def test_a_port_that_does_not_exist_is_refused_without_the_password(port: str) -> None:
    with pytest.raises(SettingsError, match="LLM_DATABASE_URL: it is not the URL of a database") as raised:
        make_engine(f"postgresql://user:violet@host:{port}/database", 1.0, ConnectionThreads())
    assert "violet" not in str(raised.value)


@pytest.mark.parametrize(
    "options", ["connect_timeout=5", "sslmode=require&channel_binding=require", "violet=violet"]
)
def test_options_that_the_driver_does_not_know_are_refused(options: str) -> None:
    with pytest.raises(SettingsError, match=r"after \? may be sslmode, ") as raised:
        make_engine(f"postgresql://user:password@host/database?{options}", 1.0, ConnectionThreads())
    assert "violet" not in str(raised.value)


@pytest.mark.parametrize("options", ["sslmode=violet", "sslmode=allow&sslmode=disable", "ssl=required"])
def test_an_sslmode_that_does_not_exist_is_refused(options: str) -> None:
    with pytest.raises(
        SettingsError, match="sslmode must be one of disable, allow, prefer, require"
    ) as raised:
        make_engine(f"postgresql://user:password@host/database?{options}", 1.0, ConnectionThreads())
    assert "violet" not in str(raised.value)


@pytest.mark.parametrize("options", ["sslmode=verify-full", "host=/run/postgresql", "ssl=require", ""])
def test_options_that_the_driver_knows_are_taken(options: str) -> None:
    engine = make_engine(f"postgresql://user:password@/database?{options}", 1.0, ConnectionThreads())
    assert engine.url.database == "database"


def test_deleted_texts_are_not_left_in_the_file(tmp_path: Path) -> None:
    words = ["violet umbrella", *(f"line {number} of a long text" for number in range(2_000))]

    async def scenario(store: ConversationStore) -> None:
        kept = await stored(store, "yellow kettle", "whistles")
        deleted = await stored(store, " ".join(words), "opens")
        await store.delete(deleted)
        assert await store.get(OWNER, kept.id) == kept

    run_on_database(f"sqlite:///{tmp_path / 'c.db'}", scenario)
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert b"yellow kettle" in content
    assert b"violet umbrella" not in content and b"line 1999 of" not in content
