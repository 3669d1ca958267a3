"""Remembers which Idempotency-Key began which turn: the interface of the records, and the one in memory."""

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Protocol

from app.models.conversation import now

KEY_LIFETIME = timedelta(days=1)
MAX_RECORDS = 20_000  # in memory, each of about 1 KB


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key, and the turn that it began. `body_hash` is the SHA-256 of the request's canonical body."""

    owner: str
    key: str
    body_hash: bytes
    conversation_id: str
    message_id: str  # of the reply
    created_at: datetime = field(default_factory=now)


class KeyRecords(Protocol):
    """Stores one record for each key of each owner.

    Every method may raise StoreUnavailable. Then nothing was changed.
    """

    async def claim(self, record: KeyRecord) -> KeyRecord:
        """Stores the record and returns it. If its owner has a record with this key, returns that one.

        A stored record that is older than the new one by KEY_LIFETIME or more is replaced. Of several claims
        at the same moment, also of several processes, one stores its record, and all return it.
        """

    async def release(self, record: KeyRecord) -> None:
        """Removes the record, so that its key can be claimed again. A later record of the key stays."""


class MemoryKeyRecords:
    """Keeps the records in memory, and drops the oldest beyond `max_records`. Use it in one event loop."""

    def __init__(self, max_records: int = MAX_RECORDS) -> None:
        self._max = max_records
        self._records: OrderedDict[tuple[str, str], KeyRecord] = OrderedDict()  # the oldest first

    async def claim(self, record: KeyRecord) -> KeyRecord:
        """See KeyRecords."""
        self._drop_expired(record.created_at)
        stored = self._records.setdefault((record.owner, record.key), record)
        if len(self._records) > self._max:
            self._records.popitem(last=False)
        return stored

    async def release(self, record: KeyRecord) -> None:
        """See KeyRecords."""
        if self._records.get((record.owner, record.key)) == record:
            del self._records[record.owner, record.key]

    def _drop_expired(self, moment: datetime) -> None:
        while self._records and _oldest(self._records).created_at <= moment - KEY_LIFETIME:
            self._records.popitem(last=False)


def _oldest(records: OrderedDict[tuple[str, str], KeyRecord]) -> KeyRecord:
    return next(iter(records.values()))
