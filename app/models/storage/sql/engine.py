"""Makes the engine of SQLAlchemy for LLM_DATABASE_URL, and waits for the threads of its connections."""

import asyncio
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

from sqlalchemy import URL, Connection, event, make_url
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry

from app.core.config import SettingsError
from app.core.paths import expand

_CONNECT_TIMEOUT_S = 5
_COMMAND_TIMEOUT_S = 30
_POOL_TIMEOUT_S = 10
_CONNECTIONS = 8
_MOST_PORT = 65_535
_OPTIONS = (
    "sslmode",
    "ssl",
    "host",
    "port",
    "prepared_statement_cache_size",
)  # of a PostgreSQL URL, after `?`
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
END_TIMEOUT_S = 1.0  # to close
WRITES = "writes"  # the execution option of transactions that change the database


class ConnectionThreads:
    """The threads in which aiosqlite runs its connections, one for each.

    A connection that could not be opened, or whose task was cancelled, is ended without waiting for its
    thread, which then calls into the event loop once more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._mode = "rwc"

    def expect_file(self) -> None:
        """Call this when the file exists: from then on, a missing one is an error, and is not created."""
        self._mode = "rw"

    # Any: the other options of sqlite3.connect
    def connect(self, path: str, *, uri: bool = False, **options: Any) -> sqlite3.Connection:
        """Opens a connection in the calling thread. A `path` that is a URI has its own mode, or none."""
        with self._lock:
            self._threads = [*self._alive(), threading.current_thread()]
        name = path if uri else f"{Path(path).absolute().as_uri()}?mode={self._mode}"
        return sqlite3.Connection(name, uri=True, **options)

    async def wait(self) -> None:
        """Waits until the threads have ended, but not for long: one may be busy with a statement."""
        await asyncio.to_thread(self._join)

    def _alive(self) -> list[threading.Thread]:
        return [thread for thread in self._threads if thread.is_alive()]

    def _join(self) -> None:
        deadline = time.monotonic() + END_TIMEOUT_S
        with self._lock:
            threads = self._alive()
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))


def make_engine(url: str, busy_timeout_s: float, threads: ConnectionThreads) -> AsyncEngine:
    """Returns an engine that has not connected yet. SQLite waits `busy_timeout_s` for another process.

    `threads` gets the threads of its connections, if it has any.

    Raises:
        SettingsError: the URL is malformed, or not one of the supported databases.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise _not_a_url() from None
    if parsed.drivername == "sqlite":
        return _sqlite(parsed, busy_timeout_s, threads)
    if parsed.drivername in ("postgresql", "postgres"):
        return _postgresql(parsed)
    raise SettingsError("LLM_DATABASE_URL: it must begin with sqlite:/// or postgresql://.")


def _sqlite(url: URL, busy_timeout_s: float, threads: ConnectionThreads) -> AsyncEngine:
    if url.database in (None, "", ":memory:"):
        raise SettingsError("LLM_DATABASE_URL: sqlite:/// needs the path of a file.")
    path = str(expand(url.database or ""))
    engine = create_async_engine(
        url.set(drivername="sqlite+aiosqlite", database=path),
        hide_parameters=True,  # they are texts of users
        connect_args={"timeout": busy_timeout_s, "factory": threads.connect},
        pool_size=_CONNECTIONS,
        max_overflow=0,
        pool_timeout=_POOL_TIMEOUT_S,
    )
    event.listen(engine.sync_engine, "connect", _prepare_sqlite)
    event.listen(engine.sync_engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: DBAPIConnection, entry: ConnectionPoolEntry) -> None:
    """Sets a new connection up, or closes it, which SQLAlchemy does not if this fails."""
    connection.isolation_level = None  # the driver begins no transactions; _begin_sqlite does
    try:
        cursor = connection.cursor()
        for pragma in (
            "journal_mode = WAL",
            "synchronous = FULL",
            "foreign_keys = ON",
            "cache_size = -16000",
            "secure_delete = ON",  # deleted texts are overwritten; some builds would leave them in free pages
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()
    except BaseException:
        connection.close()
        raise


def _begin_sqlite(connection: Connection) -> None:
    """Begins a transaction. One that writes locks the database at once, because it could fail later."""
    writes = connection.get_execution_options().get(WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _not_a_url() -> SettingsError:
    return SettingsError("LLM_DATABASE_URL: it is not the URL of a database.")


def _check_postgresql(url: URL) -> None:
    """Raises SettingsError for parts that the driver would only refuse when it connects."""
    if url.port is not None and not 1 <= url.port <= _MOST_PORT:
        raise _not_a_url()
    if url.query.keys() - set(_OPTIONS):
        raise SettingsError(
            f"LLM_DATABASE_URL: the options after ? may be {', '.join(_OPTIONS)}; remove others."
        )
    modes = [url.query[name] for name in ("sslmode", "ssl") if name in url.query]
    if not all(mode in _SSL_MODES for mode in modes):
        raise SettingsError(f"LLM_DATABASE_URL: sslmode must be one of {', '.join(_SSL_MODES)}.")


def _postgresql(url: URL) -> AsyncEngine:
    _check_postgresql(url)
    options: dict[str, Any] = {
        "timeout": _CONNECT_TIMEOUT_S,
        "command_timeout": _COMMAND_TIMEOUT_S,
    }  # Any: mixed
    if mode := url.query.get("sslmode", url.query.get("ssl")):  # the former is libpq's name for it
        options["ssl"] = mode
    return create_async_engine(
        url.set(drivername="postgresql+asyncpg").difference_update_query(["sslmode", "ssl"]),
        hide_parameters=True,
        connect_args=options,
        pool_pre_ping=True,
        pool_size=_CONNECTIONS,
        pool_timeout=_POOL_TIMEOUT_S,
    )
