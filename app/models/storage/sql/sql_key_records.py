"""Remembers in the database which Idempotency-Key began which turn."""

from dataclasses import asdict, fields

from sqlalchemy import delete
from sqlalchemy.dialects import postgresql, sqlite

from app.models.storage.key_records import KEY_LIFETIME, KeyRecord
from app.models.storage.sql.database import Database
from app.models.storage.sql.tables import idempotency_keys

_COLUMNS = tuple(idempotency_keys.c[field.name] for field in fields(KeyRecord))


class SqlKeyRecords:
    """Keeps the records of the last day, for all processes that share the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, record: KeyRecord) -> KeyRecord:
        """See KeyRecords."""
        dialect = sqlite if self._database.is_sqlite else postgresql
        columns = idempotency_keys.c
        async with self._database.writing() as connection:
            await connection.execute(
                delete(idempotency_keys).where(columns.created_at <= record.created_at - KEY_LIFETIME)
            )
            claimed = await connection.execute(
                dialect.insert(idempotency_keys)
                .values(asdict(record))
                .on_conflict_do_update(  # changes nothing, but returns the row that is there
                    index_elements=[columns.owner, columns.key], set_={"key": record.key}
                )
                .returning(*_COLUMNS)
            )
            return KeyRecord(**claimed.one()._mapping)

    async def release(self, record: KeyRecord) -> None:
        """See KeyRecords."""
        columns = idempotency_keys.c
        async with self._database.writing() as connection:
            await connection.execute(
                delete(idempotency_keys).where(
                    columns.owner == record.owner,
                    columns.key == record.key,
                    columns.message_id == record.message_id,
                )
            )
