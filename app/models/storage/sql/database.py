"""Connects to the database, watches whether it can be used, and opens it again when it is back."""

import asyncio
import contextlib
import logging
import secrets
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from typing import TypeVar

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.pool import QueuePool

from app.core.errors import StoreUnavailable
from app.models.storage.sql.database_file import DatabaseFile
from app.models.storage.sql.engine import END_TIMEOUT_S, WRITES, ConnectionThreads, make_engine
from app.models.storage.sql.failures import DATABASE_ERRORS, RETRY_AFTER_S, TOO_SLOW, unavailable
from app.models.storage.sql.migrations.upgrade import bring_up_to_date, is_up_to_date
from app.models.storage.sql.tables import turn_leases

logger = logging.getLogger(__name__)

T = TypeVar("T")
_PROBE_EVERY_S = 2.0
_BUSY_TIMEOUT_S = 5.0
_QUEUE_TIMEOUT_S = 10.0


class Database:
    """A database whose tables are up to date. Each method but `close` may raise StoreUnavailable."""

    def __init__(
        self, url: str, *, probe_every_s: float = _PROBE_EVERY_S, busy_timeout_s: float = _BUSY_TIMEOUT_S
    ) -> None:
        """`busy_timeout_s` is how long a change in SQLite waits for another process.

        It connects only in `start` or `open`.

        Raises:
            SettingsError: the URL is wrong.
        """
        self._threads = ConnectionThreads()
        self._engine = make_engine(url, busy_timeout_s, self._threads)
        self._probe_every_s = probe_every_s
        self._is_sqlite = self._engine.dialect.name == "sqlite"
        self._file = DatabaseFile(self._engine.url.database or "") if self._is_sqlite else None
        self._converting = ThreadPoolExecutor(2, "database-rows")  # they start with the first conversion
        self._writing = asyncio.Lock()  # SQLite has one writer, and waits for others by polling
        self._is_open = False
        self._failure: StoreUnavailable | None = StoreUnavailable("The database was not opened yet.")
        self._watching: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    @property
    def is_sqlite(self) -> bool:
        return self._is_sqlite

    @property
    def failure(self) -> str | None:
        """Why the database cannot be used now, as one sentence; None if it can."""
        return None if self._failure is None else self._failure.message

    async def start(self) -> None:
        """Opens the database, and watches it from then on. If it cannot be opened, this is tried again."""
        await self._try(self.open())
        self._watching = asyncio.create_task(self._watch())

    async def open(self) -> None:
        """Connects, and brings the tables up to date."""
        async with self._translated():
            if self._file is not None:
                await self._file.check_locks()
            async with self._engine.connect() as connection, connection.begin():
                is_ready = await connection.run_sync(is_up_to_date)
            if not is_ready:
                async with self._locked(), self._transaction() as connection:
                    await connection.run_sync(bring_up_to_date)
            if self._file is not None:
                await self._file.remember()
                self._threads.expect_file()  # the file may be moved between a check and a connection
        self._is_open = True
        await self._probe()

    async def close(self) -> None:
        """Ends all connections. It waits for no long statement."""
        self._closing.set()
        if self._watching is not None:
            # It may be connecting, and the thread of a connection that is cancelled goes on.
            await asyncio.wait([self._watching], timeout=END_TIMEOUT_S)
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._engine.dispose()
        await self._threads.wait()
        self._converting.shutdown(wait=False)
        if self._file is not None:
            self._file.close()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """Yields a connection for statements that change nothing."""
        self._check_open()
        async with self._translated():
            await self._check_file()
            async with self._engine.connect() as connection, connection.begin():
                yield connection

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncConnection]:
        """Yields a connection whose changes are committed at the end of the block, or not at all."""
        self._check_open()
        async with self._translated(), self._locked(), self._transaction() as connection:
            yield connection
        self._recovered()

    async def convert(self, work: Callable[[], T]) -> T:
        """Returns the result of `work` between rows and messages, in a thread that does nothing else.

        Others may keep all of asyncio's threads busy.
        """
        return await asyncio.get_running_loop().run_in_executor(self._converting, work)

    def _check_open(self) -> None:
        if not self._is_open:
            raise StoreUnavailable(self.failure or "The database is being opened.", retry_after=RETRY_AFTER_S)

    async def _check_file(self) -> None:
        if self._file is not None:
            await self._file.check()

    @asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        await self._check_file()
        async with self._engine.connect() as connection:
            await connection.execution_options(**{WRITES: True})
            async with connection.begin():
                yield connection

    @asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        """Waits for the other changes of this process. SQLite takes one at a time."""
        if not self._is_sqlite:
            yield
            return
        try:
            async with asyncio.timeout(_QUEUE_TIMEOUT_S):
                await self._writing.acquire()
        except TimeoutError:
            raise StoreUnavailable(TOO_SLOW, retry_after=RETRY_AFTER_S) from None
        try:
            yield
        finally:
            self._writing.release()

    @asynccontextmanager
    async def _translated(self) -> AsyncIterator[None]:
        """Raises StoreUnavailable for an error of the database, and remembers it for `failure`."""
        try:
            yield
        except DATABASE_ERRORS as error:
            failure = unavailable(error)
            if failure is None:
                raise
            self._failed(failure, error)
            raise failure from None  # the error could show texts of users
        except StoreUnavailable as error:
            self._failed(error, error)
            raise

    def _failed(self, failure: StoreUnavailable, error: BaseException) -> None:
        if self.failure != failure.message:
            logger.error("database unavailable: %s (%s)", failure.message, type(error).__name__)
        self._failure = failure

    def _recovered(self) -> None:
        if self._failure is not None:
            logger.info("database available")
        self._failure = None

    async def _watch(self) -> None:
        """Finds out that an idle database has gone, and that a lost one is back."""
        while not await self._closes_within(self._probe_every_s):
            try:
                await self._try(self._look() if self._failure is None else self._reopen())
            except Exception:  # the root of the task
                logger.exception("the database could not be watched")

    async def _closes_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._closing.wait()
        return self._closing.is_set()

    async def _try(self, step: Coroutine[None, None, None]) -> None:
        with contextlib.suppress(StoreUnavailable):  # `failure` has it
            await step

    async def _reopen(self) -> None:
        async with self._translated():
            await self._check_file()  # a file that was removed exists only as long as it is open
        pool = self._engine.pool
        if isinstance(pool, QueuePool) and pool.checkedout() == 0:  # one in use would never be closed
            await self._engine.dispose()  # SQLite connections that began on a read-only disk stay read-only
        await (self._probe() if self._is_open else self.open())

    async def _look(self) -> None:
        async with self.reading() as connection:
            await connection.execute(select(turn_leases.c.holder).limit(1))

    async def _probe(self) -> None:
        """Writes a row and removes it."""
        row = {"conversation_id": f"probe_{secrets.token_hex(8)}", "holder": "probe", "expires_at": 0.0}
        async with self.writing() as connection:
            await connection.execute(insert(turn_leases).values(row))
        async with self.writing() as connection:
            await connection.execute(delete(turn_leases).where(turn_leases.c.holder == "probe"))
