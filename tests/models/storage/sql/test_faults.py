"""A database that cannot be used is explained in one sentence, loses nothing, and is used again later."""

import asyncio
import errno
import os
import sqlite3
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest

from app.core.config import SettingsError
from app.core.errors import StoreUnavailable
from app.models.conversation import Conversation, text_message
from app.models.storage.sql.database import Database
from app.models.storage.sql.database_file import DatabaseFile, NoFileLocks
from app.models.storage.sql.failures import unavailable
from app.models.storage.sql.sql_store import SqlStore
from app.models.storage.sql.turns.leases import LeaseLocks
from app.models.storage.store import ConversationStore, PageRequest
from tests.models.storage.conftest import opened
from tests.models.storage.test_store import OWNER, stored
from tests.postgres import PostgresServer, find_programs, running_postgres
from tests.waiting import LIMIT_S, until


@asynccontextmanager
async def started(url: str) -> AsyncIterator[tuple[Database, SqlStore]]:
    """A database as a server has it, which waits neither for locks nor between its probes."""
    database = Database(url, probe_every_s=0.01, busy_timeout_s=0.01)
    await database.start()
    try:
        yield database, SqlStore(database, LeaseLocks(database))
    finally:
        await database.close()


async def total(store: ConversationStore) -> int | None:
    return (await store.page(OWNER, PageRequest(limit=1))).total


def remount(folder: Path, option: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{option}", str(folder)], check=True)


def test_a_full_disk_loses_nothing(small_disk: Path) -> None:
    async def scenario() -> None:
        async with started(f"sqlite:///{small_disk}/c.db") as (database, store):
            count = 0
            with pytest.raises(StoreUnavailable, match="disk of the database is full"):
                while True:
                    await stored(store, "x" * 10_000, "Oh")
                    count += 1
            assert await total(store) == count
            remount(small_disk, "size=4m")
            await until(lambda: database.failure is None, "the database to be used again")
            await stored(store, "x" * 10_000, "Oh")
            assert await total(store) == count + 1

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_a_read_only_disk_is_reported_until_it_can_be_written(small_disk: Path) -> None:
    async def scenario() -> None:
        url = f"sqlite:///{small_disk}/c.db"
        async with started(url) as (_, store):
            await stored(store, "hi", "Oh")
        remount(small_disk, "ro")
        async with started(url) as (database, store):
            assert database.failure is not None and "read-only" in database.failure
            with pytest.raises(StoreUnavailable):
                await stored(store, "hi", "Oh")
            remount(small_disk, "rw")
            await until(lambda: database.failure is None, "the database to be used again")
            assert await total(store) == 1

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_a_lock_of_another_process_is_reported_until_it_ends(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with started(f"sqlite:///{tmp_path}/c.db") as (database, store):
            conversation = await stored(store, "hi", "Oh")
            with closing(sqlite3.connect(tmp_path / "c.db", isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")
                with pytest.raises(StoreUnavailable, match="locked"):
                    await stored(store, "hi", "Oh")
                assert database.failure is not None
                assert await store.get(OWNER, conversation.id) == conversation  # readers go on
                other.execute("ROLLBACK")
            await until(lambda: database.failure is None, "the database to be used again")
            await stored(store, "hi", "Oh")
            assert await total(store) == 2

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_busy_threads_of_asyncio_do_not_keep_the_database_waiting(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with started(f"sqlite:///{tmp_path}/c.db") as (database, store):
            free, loop = threading.Event(), asyncio.get_running_loop()
            loop.set_default_executor(ThreadPoolExecutor(1))  # the end of the loop shuts it down
            busy = loop.run_in_executor(None, free.wait, LIMIT_S / 4)
            try:
                assert await total(store) == 0
                async with LeaseLocks(database).hold("conv_1"):
                    assert not busy.done()
            finally:
                free.set()
                await busy

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_a_file_that_was_moved_is_reported_until_it_is_back(tmp_path: Path) -> None:
    path, elsewhere = tmp_path / "c.db", tmp_path / "elsewhere"

    async def scenario() -> None:
        async with started(f"sqlite:///{path}") as (database, store):
            conversation = await stored(store, "hi", "Oh")
            path.rename(elsewhere)
            with pytest.raises(StoreUnavailable, match="moved, removed or replaced"):
                await stored(store, "hi", "Oh")
            with pytest.raises(StoreUnavailable, match="moved, removed or replaced"):
                await store.get(OWNER, conversation.id)
            assert database.failure is not None
            assert not path.exists()
            elsewhere.rename(path)
            await until(lambda: database.failure is None, "the database to be used again")
            await stored(store, "hi", "Oh")
            assert await total(store) == 2

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_no_connection_outlives_the_close_of_a_database_that_is_locked(tmp_path: Path) -> None:
    def connections() -> list[str]:
        return [thread.name for thread in threading.enumerate() if "connection_worker" in thread.name]

    async def scenario() -> None:
        with closing(sqlite3.connect(tmp_path / "c.db", isolation_level=None)) as other:
            for rounds in range(40):
                database = Database(f"sqlite:///{tmp_path}/c.db", probe_every_s=0.0, busy_timeout_s=0.0)
                other.execute("BEGIN EXCLUSIVE")
                await database.start()
                for _ in range(rounds):  # it connects again and again
                    await asyncio.sleep(0)
                await database.close()
                other.execute("ROLLBACK")
                assert connections() == []

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_threads_that_others_keep_busy_delay_no_conversation(database_url: str) -> None:
    async def scenario() -> None:
        async with opened(database_url) as database:
            asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(1))
            is_over = threading.Event()
            waiting = asyncio.create_task(asyncio.to_thread(is_over.wait, LIMIT_S))
            store = SqlStore(database, LeaseLocks(database))
            conversation = await asyncio.wait_for(stored(store, "hi", "Oh"), LIMIT_S / 2)
            assert len(await asyncio.wait_for(store.messages(conversation), LIMIT_S / 2)) == 2
            is_over.set()
            assert await waiting

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_an_idle_server_notices_that_its_file_was_replaced(tmp_path: Path) -> None:
    path, backup = tmp_path / "c.db", tmp_path / "backup"

    async def scenario() -> None:
        async with started(f"sqlite:///{path}") as (database, store):
            await stored(store, "hi", "Oh")
            with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(backup)) as copy:
                source.backup(copy)
            content = backup.read_bytes()
            backup.replace(path)
            await until(lambda: database.failure is not None, "the other file to be noticed")
            assert path.read_bytes() == content

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_the_event_loop_runs_while_the_database_waits(tmp_path: Path) -> None:
    async def scenario() -> None:
        database = Database(f"sqlite:///{tmp_path}/c.db")
        await database.open()
        store = SqlStore(database, LeaseLocks(database))
        with closing(sqlite3.connect(tmp_path / "c.db", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            commit = asyncio.create_task(stored(store, "hi", "Oh"))
            rounds = 0
            while rounds < 1_000:
                await asyncio.sleep(0)
                rounds += 1
            assert not commit.done()
            other.execute("ROLLBACK")
        await commit
        assert await total(store) == 1
        await database.close()

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


@pytest.mark.parametrize(
    ("content", "reason"), [(b"no database, " * 100, "not an SQLite database"), (None, "folder")]
)
def test_a_wrong_file_is_left_alone(content: bytes | None, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "sub" / "c.db"
    if content is not None:
        path.parent.mkdir()
        path.write_bytes(content)

    async def scenario() -> None:
        async with started(f"sqlite:///{path}") as (database, store):
            assert database.failure is not None and reason in database.failure
            with pytest.raises(StoreUnavailable, match=reason):
                await total(store)

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))
    assert content is None or path.read_bytes() == content


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_disk_without_file_locks_is_named(number: int, tmp_path: Path) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    async def scenario() -> None:
        file = DatabaseFile(str(tmp_path / "c.db"), refuse)
        try:
            with pytest.raises(NoFileLocks) as caught:
                await file.check_locks()
        finally:
            file.close()
        failure = unavailable(caught.value)
        assert failure is not None and "no file locks" in failure.message

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def connection_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "connection_worker" in thread.name]


@pytest.mark.parametrize("content", [b"no database, " * 100, None])
def test_no_thread_of_a_failed_opening_outlives_the_close(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "c.db"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)

    async def scenario() -> None:
        before = connection_threads()
        async with started(f"sqlite:///{path}") as (database, _):
            assert database.failure is not None
        assert connection_threads() == before

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_no_thread_of_a_cancelled_change_outlives_the_close(tmp_path: Path) -> None:
    async def scenario() -> None:
        before = connection_threads()
        async with started(f"sqlite:///{tmp_path}/c.db") as (_, store):
            commit = asyncio.create_task(stored(store, "hi", "Oh"))
            await asyncio.sleep(0)
            commit.cancel()
            await asyncio.wait([commit])
        assert connection_threads() == before

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_no_connection_that_was_in_use_at_a_failure_outlives_the_close(tmp_path: Path) -> None:
    async def scenario() -> None:
        before = connection_threads()
        async with started(f"sqlite:///{tmp_path}/c.db") as (database, store), database.reading():
            with closing(sqlite3.connect(tmp_path / "c.db", isolation_level=None)) as other:
                other.execute("BEGIN EXCLUSIVE")
                with pytest.raises(StoreUnavailable, match="locked"):
                    await stored(store, "hi", "Oh")
            await until(lambda: database.failure is None, "the database to be used again")
        assert connection_threads() == before

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


@pytest.mark.parametrize(
    "url", ["sqlite:///", "sqlite:///:memory:", "sqlite://", "postgresql://host:port/x", "mysql://x", "x"]
)
def test_a_wrong_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(SettingsError, match="LLM_DATABASE_URL"):
        Database(url)


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server that the test may stop."""
    programs = find_programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    with running_postgres(programs) as server:
        yield server


def test_a_server_that_stops_in_mid_turn_loses_only_the_open_turn(own_postgres: PostgresServer) -> None:
    async def scenario() -> None:
        async with started(own_postgres.url(own_postgres.new_database())) as (database, store):
            locks = LeaseLocks(database)
            store = SqlStore(database, locks)
            kept = await stored(store, "hi", "Oh")
            message = text_message("user", "lost")
            async with locks.hold(kept.id):
                await asyncio.to_thread(own_postgres.stop)
                with pytest.raises(StoreUnavailable):
                    await store.commit(kept.with_messages(message), [message])
                await until(lambda: database.failure is not None, "the loss to be noticed")
            await asyncio.to_thread(own_postgres.start)
            await until(lambda: database.failure is None, "the database to be used again")
            assert await store.get(OWNER, kept.id) == kept
            assert len(await store.messages(kept)) == 2
            async with locks.hold(kept.id):  # although the lease could not be released
                await store.commit(kept.with_messages(message), [message])

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_an_idle_server_notices_that_its_database_has_gone(own_postgres: PostgresServer) -> None:
    async def scenario() -> None:
        async with started(own_postgres.url(own_postgres.new_database())) as (database, _):
            await asyncio.to_thread(own_postgres.stop)
            await until(lambda: database.failure is not None, "the loss to be noticed")

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_a_database_may_come_after_the_server(postgres: PostgresServer) -> None:
    async def scenario() -> None:
        async with started(postgres.url("later")) as (database, store):
            assert database.failure is not None and "does not exist" in database.failure
            await asyncio.to_thread(postgres.sql, "postgres", "CREATE DATABASE later TEMPLATE template0")
            await until(lambda: database.failure is None, "the database to be used")
            await stored(store, "hi", "Oh")

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))


def test_a_read_only_database_is_read(postgres: PostgresServer) -> None:
    async def scenario() -> None:
        name = postgres.new_database()
        async with started(postgres.url(name)) as (_, store):
            kept = await stored(store, "hi", "Oh")
        postgres.sql("postgres", f"ALTER DATABASE {name} SET default_transaction_read_only = on")
        async with started(postgres.url(name)) as (database, store):
            assert database.failure == "The database is read-only."
            with pytest.raises(StoreUnavailable, match="read-only"):
                await store.commit(Conversation())
            assert await store.get(OWNER, kept.id) == kept

    asyncio.run(asyncio.wait_for(scenario(), LIMIT_S))
