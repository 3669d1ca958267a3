"""Limits each conversation to one turn at a time, among all processes that share a database."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Coroutine, Sequence, Set
from contextlib import asynccontextmanager, suppress

from sqlalchemy import (
    ColumnElement,
    Float,
    delete,
    extract,
    false,
    func,
    literal,
    literal_column,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.errors import ConversationBusy, StoreUnavailable
from app.models.storage.sql.database import Database
from app.models.storage.sql.tables import turn_leases
from app.models.storage.sql.turns.lease_watch import Lease, LeaseWatch
from app.models.storage.sql.turns.process_identity import this_process
from app.models.storage.turn_locks import busy

logger = logging.getLogger(__name__)

_LEASE_S = 30.0
_RENEW_EVERY_S = 10.0
_RETRY_EVERY_S = 1.0  # if a renewal fails
_columns = turn_leases.c


class LeaseLocks:
    """Turn locks that are rows of the database. They expire if their process does not renew them."""

    def __init__(
        self, database: Database, *, lease_s: float = _LEASE_S, renew_every_s: float = _RENEW_EVERY_S
    ) -> None:
        self._database = database
        self._lease_s = lease_s
        self._renew_every_s = renew_every_s
        self._prefix = f"{this_process()}/{secrets.token_hex(8)}/"  # of its holders
        self._holders: dict[str, str] = {}  # of the conversations whose locks this process holds
        self._releases: set[asyncio.Task[None]] = set()
        self._watch = LeaseWatch(lease_s)

    @asynccontextmanager
    async def hold(self, conversation_id: str) -> AsyncIterator[None]:
        """See TurnLocks. Raises StoreUnavailable as well."""
        if conversation_id in self._holders:
            raise busy()
        self._holders[conversation_id] = holder = f"{self._prefix}{secrets.token_hex(8)}"
        try:
            async with self._database.writing() as connection:
                await self._take(connection, conversation_id, holder)
            renewing = asyncio.create_task(self._renew(conversation_id, holder))
            try:
                yield
            finally:
                renewing.cancel()
                await self._to_its_end(self._end(renewing, conversation_id, holder))
        finally:
            del self._holders[conversation_id]

    async def is_held(self, conversation_id: str) -> bool:
        """Returns whether the conversation has a lease that is in force. Raises StoreUnavailable."""
        is_its = _columns.conversation_id == conversation_id
        return any(not is_left for _, is_left in await self._all(is_its))

    async def confirm(self, connection: AsyncConnection, conversation_id: str) -> None:
        """Makes sure that a lock which this process holds is still its own until the transaction ends.

        Raises:
            ConversationBusy: the lease expired, and another process took the conversation over.
        """
        holder = self._holders.get(conversation_id)
        if holder is not None and not await self._extend(connection, conversation_id, holder):
            raise ConversationBusy(
                "Another server has taken the conversation over, because this one lost its lock.",
                hint="Nothing was stored. Send the message again.",
            )

    @asynccontextmanager
    async def passing(self, connection: AsyncConnection, conversation_id: str) -> AsyncIterator[None]:
        """Holds the lock within one transaction, so that nobody finds it taken: they wait for the end.

        Raises:
            ConversationBusy: a turn holds the lock.
        """
        if conversation_id in self._holders:
            raise busy()
        holder = f"{self._prefix}{secrets.token_hex(8)}"
        await self._take(connection, conversation_id, holder)
        yield
        await self._remove(connection, conversation_id, holder)

    async def abandoned(self) -> Sequence[str]:
        """Returns the conversations with leases that have expired, or whose processes have ended."""
        return [conversation_id for conversation_id, is_left in await self._all() if is_left]

    async def held(self) -> Set[str]:
        """Returns the conversations with leases that are in force."""
        return {conversation_id for conversation_id, is_left in await self._all() if not is_left}

    async def _all(self, *conditions: ColumnElement[bool]) -> Sequence[tuple[str, bool]]:
        """Returns the conversation of each such lease, and whether the lease is abandoned."""
        async with self._database.reading() as connection:
            leases = await self._read(connection, *conditions)
        if not conditions:
            self._watch.forget_others({lease.conversation_id for lease in leases})
        return [(lease.conversation_id, self._is_left(lease)) for lease in leases]

    async def _read(self, connection: AsyncConnection, *conditions: ColumnElement[bool]) -> list[Lease]:
        is_late = (_columns.expires_at < self._now()).label("is_late")
        query = select(_columns.conversation_id, _columns.holder, _columns.expires_at, is_late)
        rows = (await connection.execute(query.where(*conditions))).all()
        return [Lease(row.conversation_id, row.holder, row.expires_at, bool(row.is_late)) for row in rows]

    async def clear(self) -> None:
        """Removes these leases."""
        abandoned = await self.abandoned()
        async with self._database.writing() as connection:
            await connection.execute(delete(turn_leases).where(_columns.conversation_id.in_(abandoned)))

    async def close(self) -> None:
        """Waits for locks that are being released."""
        await asyncio.gather(*self._releases)

    async def _take(self, connection: AsyncConnection, conversation_id: str, holder: str) -> None:
        if await self._insert(connection, conversation_id, holder):
            return
        is_its = _columns.conversation_id == conversation_id
        others = await self._read(connection, is_its)
        if not others or not self._is_left(others[0]):
            raise busy()
        is_unchanged = (_columns.holder == others[0].holder) & (_columns.expires_at == others[0].expires_at)
        taken = await connection.execute(
            update(turn_leases).where(is_its, is_unchanged).values(holder=holder, expires_at=self._expiry())
        )
        if taken.rowcount == 0:
            raise busy()

    async def _insert(self, connection: AsyncConnection, conversation_id: str, holder: str) -> bool:
        """Adds the lease if the conversation has none. Returns whether it did."""
        dialect = sqlite if self._database.is_sqlite else postgresql
        values = {"holder": holder, "expires_at": self._expiry()}
        added = await connection.execute(
            dialect.insert(turn_leases)
            .values(conversation_id=conversation_id, **values)
            .on_conflict_do_update(  # changes nothing, but waits for a transaction that is removing the lease
                index_elements=[_columns.conversation_id], set_=values, where=false()
            )
            .returning(_columns.conversation_id)
        )
        return added.first() is not None

    def _is_left(self, lease: Lease) -> bool:
        """Whether the holder has ended or stands still, or is this process and no longer uses the lease."""
        if lease.holder.startswith(self._prefix):
            return lease.holder not in self._holders.values()
        return self._watch.is_left(lease)

    async def _renew(self, conversation_id: str, holder: str) -> None:
        """Extends the lease again and again, until it is cancelled or the lease is lost."""
        delay_s = self._renew_every_s
        while True:
            await asyncio.sleep(delay_s)
            try:
                async with self._database.writing() as connection:
                    if not await self._extend(connection, conversation_id, holder):
                        logger.warning("turn lease lost: id=%s", conversation_id)
                        return
                delay_s = self._renew_every_s
            except StoreUnavailable:
                delay_s = min(_RETRY_EVERY_S, self._renew_every_s)

    async def _extend(self, connection: AsyncConnection, conversation_id: str, holder: str) -> bool:
        """Returns whether the lease is still the holder's. Then it lasts until the transaction ends."""
        extended = await connection.execute(
            update(turn_leases)
            .where(_columns.conversation_id == conversation_id, _columns.holder == holder)
            .values(expires_at=self._expiry())
        )
        return extended.rowcount == 1

    async def _end(self, renewing: asyncio.Task[None], conversation_id: str, holder: str) -> None:
        """Waits for a renewal that was cancelled in a transaction, and releases the lease."""
        await asyncio.wait([renewing])
        await self._release(conversation_id, holder)

    async def _release(self, conversation_id: str, holder: str) -> None:
        try:
            async with self._database.writing() as connection:
                await self._remove(connection, conversation_id, holder)
        except StoreUnavailable:  # this process takes it over in its next turn; others wait for its expiry
            logger.warning("turn lease not released: id=%s", conversation_id)

    async def _remove(self, connection: AsyncConnection, conversation_id: str, holder: str) -> None:
        is_its = (_columns.conversation_id == conversation_id) & (_columns.holder == holder)
        await connection.execute(delete(turn_leases).where(is_its))

    async def _to_its_end(self, release: Coroutine[None, None, None]) -> None:
        """Awaits the release to its end, even if the caller is cancelled.

        The turn was committed by then, so a cancellation must not make it look as if it were not.
        """
        task = asyncio.create_task(release)
        self._releases.add(task)
        task.add_done_callback(self._releases.discard)
        while not task.done():
            with suppress(asyncio.CancelledError):
                await asyncio.wait((task,))
        task.result()

    def _expiry(self) -> ColumnElement[float]:
        return self._now() + literal(self._lease_s, Float(53))

    def _now(self) -> ColumnElement[float]:
        """Seconds since 1970 by the clock of the database, which all its processes share."""
        if self._database.is_sqlite:
            return literal_column("((julianday('now') - 2440587.5) * 86400.0)", Float(53))
        return func.cast(extract("epoch", func.clock_timestamp()), Float(53))
