"""Reads all conversations of a database, for its operator."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from sqlalchemy import ColumnElement, func, select, text

from app.core.errors import StoreUnavailable
from app.models.conversation import Conversation, Message
from app.models.storage.sql.database import Database
from app.models.storage.sql.rows import CONVERSATION_COLUMNS, conversation_of
from app.models.storage.sql.sql_store import SqlStore
from app.models.storage.sql.tables import conversations

_PAGE = 100
_CHECK_INDEX = "INSERT INTO search_texts(search_texts) VALUES('integrity-check')"  # a command of FTS5


class ConversationListing:
    """Finds conversations of all owners."""

    def __init__(self, database: Database, store: SqlStore) -> None:
        self._database = database
        self._store = store

    async def conversations(self, owner: str | None) -> AsyncIterator[Conversation]:
        """Yields the conversations of an owner, or of all, in the order in which they were added."""
        number = conversations.c.number
        last = 0
        while True:
            query = select(number, *CONVERSATION_COLUMNS).where(number > last, *_of(owner))
            async with self._database.reading() as connection:
                rows = (await connection.execute(query.order_by(number).limit(_PAGE))).all()
            for row in rows:
                yield conversation_of(row)
            if not rows:
                return
            last = rows[-1].number

    async def outdated(
        self, owner: str | None, before: datetime | None, keep: int | None
    ) -> Sequence[Conversation]:
        """Returns the conversations not changed since `before`, without the `keep` newest of each owner.

        Either may be None, which sets no such limit.
        """
        changed = conversations.c.updated_at
        rank = func.row_number().over(
            partition_by=conversations.c.owner, order_by=(changed.desc(), conversations.c.id.desc())
        )
        ranked = select(*CONVERSATION_COLUMNS, rank.label("rank")).where(*_of(owner)).subquery()
        query = select(ranked)
        if before is not None:
            query = query.where(ranked.c.updated_at < before)
        if keep is not None:
            query = query.where(ranked.c.rank > keep)
        async with self._database.reading() as connection:
            return [conversation_of(row) for row in (await connection.execute(query)).all()]

    async def add(self, conversation: Conversation, messages: Sequence[Message]) -> bool:
        """Stores the conversation, unless one has its id. Returns whether it did."""
        query = select(conversations.c.number).where(conversations.c.id == conversation.id)
        async with self._database.reading() as connection:
            if await connection.scalar(query) is not None:
                return False
        await self._store.commit(conversation, messages)
        return True

    async def indexed_texts(self, conversation: Conversation) -> int:
        """Returns how many of its texts are in the full-text index."""
        query = select(conversations.c.number).where(conversations.c.id == conversation.id)
        async with self._database.reading() as connection:
            number = await connection.scalar(query)
            return 0 if number is None else await self._store.index.size(connection, number)

    async def faults(self) -> Sequence[str]:
        """Returns the faults that the database finds in its own file. PostgreSQL has none."""
        if not self._database.is_sqlite:
            return ()
        async with self._database.reading() as connection:
            damage = (await connection.scalars(text("PRAGMA integrity_check(20)"))).all()
            orphans = (await connection.execute(text("PRAGMA foreign_key_check"))).all()
        found = [f"the file: {each}" for each in damage if each != "ok"]
        found += [f"table {each[0]}: a row belongs to nothing" for each in orphans]
        try:
            async with self._database.writing() as connection:
                await connection.execute(text(_CHECK_INDEX))
        except StoreUnavailable as error:
            found.append(f"the search index: {error.message}")
        return found


def _of(owner: str | None) -> Sequence[ColumnElement[bool]]:
    return () if owner is None else (conversations.c.owner == owner,)
