"""Opens the storage of LLM_DATABASE_URL."""

import contextlib
from collections.abc import Mapping

from app.core.errors import StoreUnavailable
from app.models.storage.sql.database import Database
from app.models.storage.sql.leases import LeaseLocks
from app.models.storage.sql.listing import ConversationListing
from app.models.storage.sql.sql_key_records import SqlKeyRecords
from app.models.storage.sql.sql_store import SqlStore


class SqlStorage:
    """Conversations, turn locks and key records in one database."""

    def __init__(self, url: str) -> None:
        """Raises SettingsError if the URL is wrong. It connects only in `start`."""
        self._database = Database(url)
        self.locks = LeaseLocks(self._database)
        self.store = SqlStore(self._database, self.locks)
        self.key_records = SqlKeyRecords(self._database)
        self.listing = ConversationListing(self._database, self.store)

    @property
    def failure(self) -> str | None:
        """See Storage."""
        return self._database.failure

    @property
    def dropped(self) -> Mapping[str, int]:
        """See Storage. A database keeps every conversation."""
        return {}

    async def count(self) -> int:
        """See Storage."""
        return await self.store.count()

    async def start(self) -> None:
        """See Storage."""
        await self._database.start()
        with contextlib.suppress(StoreUnavailable):  # then a turn removes the lease that is in its way
            await self.locks.clear()

    async def open(self) -> None:
        """Opens the storage once, for a program that needs it now. Raises StoreUnavailable."""
        await self._database.open()

    async def close(self) -> None:
        """See Storage."""
        await self.locks.close()
        await self._database.close()
