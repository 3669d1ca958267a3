"""Takes turn locks, after it has stored a turn that a dead process left unfinished."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from app.models.storage.sql.sql_store import SqlStore
from app.models.storage.sql.turns.leases import LeaseLocks
from app.models.storage.turn_locks import busy


class SettlingLocks:
    """Leases of turns. A turn that a dead process has left is stored before the lock is handed over."""

    def __init__(self, leases: LeaseLocks, store: SqlStore) -> None:
        self._leases = leases
        self._store = store

    @asynccontextmanager
    async def hold(self, conversation_id: str) -> AsyncIterator[None]:
        """See TurnLocks. Raises StoreUnavailable as well."""
        async with self._leases.hold(conversation_id):
            await self._store.settle(conversation_id)
            yield

    async def settle(self, conversation_id: str) -> None:
        """See TurnLocks. Raises StoreUnavailable as well."""
        if await self._leases.is_held(conversation_id):
            raise busy()
        await self._store.settle_free(conversation_id)

    async def is_held(self, conversation_id: str) -> bool:
        """See TurnLocks. Raises StoreUnavailable as well."""
        return await self._leases.is_held(conversation_id)
