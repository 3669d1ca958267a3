"""Chooses where conversations are kept: in memory, or in the database of LLM_DATABASE_URL."""

from collections.abc import Mapping
from typing import Protocol

from app.core.config import Settings
from app.models.storage.key_records import KeyRecords, MemoryKeyRecords
from app.models.storage.memory_store import MemoryStore
from app.models.storage.store import ConversationStore
from app.models.storage.turn_locks import LocalTurnLocks, TurnLocks


class Storage(Protocol):
    """A store of conversations, with the locks and key records that must last as long."""

    @property
    def store(self) -> ConversationStore: ...

    @property
    def locks(self) -> TurnLocks: ...

    @property
    def key_records(self) -> KeyRecords: ...

    @property
    def failure(self) -> str | None:
        """Why conversations cannot be stored now, as one sentence; None if they can."""

    @property
    def dropped(self) -> Mapping[str, int]:
        """How many conversations were dropped since the start, by the limit that they exceeded."""

    async def count(self) -> int:
        """Returns the number of conversations of all owners. Raises StoreUnavailable."""

    async def start(self) -> None:
        """Opens the storage. If that fails, `failure` has the reason, and it is tried again."""

    async def close(self) -> None:
        """Closes the storage. Call it after the last turn has ended."""


class MemoryStorage:
    """Conversations that last as long as the process."""

    failure = None

    def __init__(self, settings: Settings) -> None:
        self.locks = LocalTurnLocks()
        self.key_records = MemoryKeyRecords()
        self.store = MemoryStore(
            max_conversations=settings.max_conversations,
            max_bytes=settings.conversation_memory_bytes,
            ttl_s=settings.conversation_ttl,
            held=self.locks.held,
        )

    @property
    def dropped(self) -> Mapping[str, int]:
        """See Storage."""
        return self.store.dropped

    async def count(self) -> int:
        """See Storage."""
        return len(self.store)

    async def start(self) -> None:
        """See Storage."""

    async def close(self) -> None:
        """See Storage."""


def choose_storage(settings: Settings) -> Storage:
    """Returns the storage of the settings, not started yet.

    Raises:
        SettingsError: LLM_DATABASE_URL is wrong.
    """
    if settings.database_url is None:
        return MemoryStorage(settings)
    from app.models.storage.sql.sql_storage import SqlStorage  # SQLAlchemy would slow the start without it

    return SqlStorage(settings.database_url.get_secret_value())
