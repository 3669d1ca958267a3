"""Opens the storage of LLM_DATABASE_URL."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping

from app.core.errors import ConversationBusy, StoreUnavailable
from app.models.storage.sql.database import Database
from app.models.storage.sql.listing import ConversationListing
from app.models.storage.sql.sql_key_records import SqlKeyRecords
from app.models.storage.sql.sql_store import SqlStore
from app.models.storage.sql.turns.leases import LeaseLocks
from app.models.storage.sql.turns.settling_locks import SettlingLocks

logger = logging.getLogger(__name__)

_SETTLE_EVERY_S = 10.0


class SqlStorage:
    """Conversations, turn locks and key records in one database."""

    def __init__(self, url: str) -> None:
        """Raises SettingsError if the URL is wrong. It connects only in `start`."""
        self._database = Database(url)
        self.leases = LeaseLocks(self._database)
        self.store = SqlStore(self._database, self.leases)
        self.locks = SettlingLocks(self.leases, self.store)
        self._settling: asyncio.Task[None] | None = None
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
            await self.leases.clear()
        self._settling = asyncio.create_task(self._settle_repeatedly())

    async def open(self) -> None:
        """Opens the storage once, for a program that needs it now. Raises StoreUnavailable."""
        await self._database.open()

    async def close(self) -> None:
        """See Storage."""
        if self._settling is not None:
            self._settling.cancel()
            await asyncio.gather(self._settling, return_exceptions=True)
        await self.leases.close()
        await self._database.close()

    async def settle_turns(self) -> None:
        """Stores the turns in the background whose processes have died, as interrupted ones.

        Raises:
            StoreUnavailable.
        """
        held = await self.leases.held()
        for conversation_id in await self.store.open_turns.conversations():
            if conversation_id not in held:
                with contextlib.suppress(ConversationBusy):  # a turn has begun, and has stored it
                    await self.locks.settle(conversation_id)

    async def _settle_repeatedly(self) -> None:
        while True:
            try:
                with contextlib.suppress(StoreUnavailable):
                    await self.settle_turns()
            except Exception:  # the root of the task
                logger.exception("turns of servers that ended could not be stored")
            await asyncio.sleep(_SETTLE_EVERY_S)
