"""Keeps conversations in an SQL database."""

import logging
from collections.abc import Sequence
from functools import partial

from sqlalchemy import ColumnElement, delete, func, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from app.core.errors import ConversationNotFound, MessageNotFound
from app.models.conversation import Conversation, Message
from app.models.storage.page_cursor import cursor_at
from app.models.storage.search import search_words
from app.models.storage.sql.database import Database
from app.models.storage.sql.queries import branch_query, count_of, may_be_id, number_of, page_query
from app.models.storage.sql.rows import (
    CONVERSATION_COLUMNS,
    MESSAGE_COLUMNS,
    NewRows,
    conversation_of,
    messages_of,
    new_rows,
)
from app.models.storage.sql.tables import conversations, messages
from app.models.storage.sql.text_index import (
    TITLE,
    IndexedText,
    PostgresTextIndex,
    SqliteTextIndex,
    TextIndex,
)
from app.models.storage.sql.turns.leases import LeaseLocks
from app.models.storage.sql.turns.open_turns import OpenTurn, OpenTurns
from app.models.storage.store import ConversationPage, PageRequest, StoredTurn
from app.models.storage.turn_locks import busy

logger = logging.getLogger(__name__)

_MANY = 5_000  # conversations; the newest of so many are found faster without the index


class SqlStore:
    """Each change is one transaction, and is refused if the turn lock of this process was lost meanwhile."""

    def __init__(self, database: Database, locks: LeaseLocks, *, many: int = _MANY) -> None:
        """A search that finds more than `many` conversations reads the newest ones, and does not count."""
        self._database = database
        self._locks = locks
        self._many = many
        self.open_turns = OpenTurns(database)
        self.index: TextIndex = SqliteTextIndex() if database.is_sqlite else PostgresTextIndex()

    async def get(self, owner: str, conversation_id: str) -> Conversation:
        """See ConversationStore."""
        query = select(*CONVERSATION_COLUMNS).where(
            conversations.c.id == conversation_id, conversations.c.owner == owner
        )
        row = None
        if may_be_id(conversation_id):
            async with self._database.reading() as connection:
                row = (await connection.execute(query)).first()
        if row is None:
            raise ConversationNotFound(
                "No conversation has this id.",
                hint="It may have been deleted; POST /api/v1/chat/new starts one.",
            )
        return conversation_of(row)

    async def count(self) -> int:
        """Returns the number of conversations of all owners."""
        async with self._database.reading() as connection:
            return await connection.scalar(select(func.count()).select_from(conversations)) or 0

    async def branch(
        self, conversation: Conversation, leaf_id: str | None, turns: int | None = None
    ) -> tuple[Message, ...]:
        """See ConversationStore."""
        if leaf_id is None or turns == 0:
            return ()
        rows = []
        if may_be_id(leaf_id):
            query = branch_query(conversation, leaf_id, turns)
            async with self._database.reading() as connection:
                rows = list((await connection.execute(query)).all())
        if not rows:
            raise MessageNotFound("The conversation has no message with this id.")
        return await self._database.convert(partial(messages_of, rows))

    async def messages(self, conversation: Conversation) -> tuple[Message, ...]:
        """See ConversationStore."""
        query = (
            select(*MESSAGE_COLUMNS)
            .where(messages.c.conversation == number_of(conversation))
            .order_by(messages.c.position)
        )
        async with self._database.reading() as connection:
            rows = (await connection.execute(query)).all()
        return await self._database.convert(partial(messages_of, rows))

    async def has(self, conversation_id: str) -> bool:
        """See ConversationStore."""
        query = select(conversations.c.number).where(conversations.c.id == conversation_id)
        async with self._database.reading() as connection:
            return await connection.scalar(query) is not None

    async def reserve(self, conversation: Conversation) -> None:
        """See ConversationStore. The number of conversations is not limited."""
        if await self.has(conversation.id):
            raise busy()

    async def begin_turn(self, conversation: Conversation, new_messages: Sequence[Message]) -> None:
        """See ConversationStore. Raises ConversationBusy as `commit` does."""
        async with self._database.writing() as connection:
            await self._locks.confirm(connection, conversation.id)
            await self.open_turns.put(connection, OpenTurn(conversation, tuple(new_messages)))

    async def forget_turn(self, conversation: Conversation) -> None:
        """See ConversationStore. Raises ConversationBusy as `commit` does."""
        async with self._database.writing() as connection:
            await self._locks.confirm(connection, conversation.id)
            await self.open_turns.remove(connection, conversation.id)

    async def find_turn(self, owner: str, message_id: str) -> StoredTurn | None:
        """See ConversationStore."""
        return await self.open_turns.find(owner, message_id) if may_be_id(message_id) else None

    async def settle(self, conversation_id: str) -> None:
        """Commits the turn that a process has left when it died, as an interrupted one.

        The turn lock must be held. Raises ConversationBusy as `commit` does.
        """
        if await self.open_turns.has(conversation_id):
            async with self._database.writing() as connection:
                await self._locks.confirm(connection, conversation_id)
                await self._end_open_turn(connection, conversation_id)

    async def settle_free(self, conversation_id: str) -> None:
        """Does the same without the turn lock: it is held in the transaction only, so that nobody is refused.

        Raises:
            ConversationBusy: a turn holds the lock.
        """
        if await self.open_turns.has(conversation_id):
            async with (
                self._database.writing() as connection,
                self._locks.passing(connection, conversation_id),
            ):
                await self._end_open_turn(connection, conversation_id)

    async def _end_open_turn(self, connection: AsyncConnection, conversation_id: str) -> None:
        if (turn := await self.open_turns.of(connection, conversation_id)) is None:
            return
        rows = await self._database.convert(partial(new_rows, turn.conversation, turn.messages))
        await self._add(connection, rows)
        await self.open_turns.end(connection, conversation_id, turn.messages[-1].id)
        logger.warning("turn of a server that ended stored as interrupted: conversation=%s", conversation_id)

    async def commit(self, conversation: Conversation, new_messages: Sequence[Message] = ()) -> None:
        """See ConversationStore.

        Raises:
            ConversationBusy: another process has taken over the turn lock.
        """
        rows = await self._database.convert(partial(new_rows, conversation, new_messages))
        async with self._database.writing() as connection:
            await self._locks.confirm(connection, conversation.id)
            await self._add(connection, rows)
            if new_messages:
                await self.open_turns.end(connection, conversation.id, new_messages[-1].id)

    async def delete(self, conversation: Conversation) -> None:
        """See ConversationStore. Raises ConversationBusy as `commit` does."""
        async with self._database.writing() as connection:
            await self._locks.confirm(connection, conversation.id)
            number = await connection.scalar(select(number_of(conversation)))
            await self.open_turns.remove(connection, conversation.id)
            if number is not None:
                await self.index.remove(connection, number)
                await connection.execute(delete(conversations).where(conversations.c.number == number))

    async def page(self, owner: str, page: PageRequest) -> ConversationPage:
        """See ConversationStore."""
        is_owned = conversations.c.owner == owner
        async with self._database.reading() as connection:
            if page.query is None:
                total: int | None = await count_of(connection, is_owned)
                is_listed = is_owned
            else:
                total, is_found = await self._search(connection, owner, search_words(page.query))
                is_listed = is_owned & is_found
            rows = (await connection.execute(page_query(is_listed, page))).all()
        shown = tuple(map(conversation_of, rows[: page.limit]))
        return ConversationPage(shown, total, cursor_at(shown[-1]) if len(rows) > page.limit else None)

    async def _search(
        self, connection: AsyncConnection, owner: str, words: Sequence[str]
    ) -> tuple[int | None, ColumnElement[bool]]:
        """Returns how many of the owner's conversations have the words, and the condition for one of them."""
        number, found = conversations.c.number, self.index.found(owner, words)
        first = found.limit(self._many + 1).subquery()
        total = await connection.scalar(select(func.count()).select_from(first)) or 0
        if total > self._many:
            return None, self.index.has_words(owner, words, number)
        return total, number.in_(found)

    async def _add(self, connection: AsyncConnection, rows: NewRows) -> None:
        number = await self._put(connection, rows)
        await self._add_messages(connection, rows.conversation["owner"], number, rows)

    async def _put(self, connection: AsyncConnection, rows: NewRows) -> int:
        """Adds or changes the conversation, and its title in the index. Returns its number."""
        values = rows.conversation
        old = (
            await connection.execute(
                select(conversations.c.number, conversations.c.title)
                .where(conversations.c.id == values["id"])
                .with_for_update()
            )
        ).first()
        title = IndexedText(TITLE, rows.title_words)
        if old is None:
            added = insert(conversations).values(values).returning(conversations.c.number)
            number: int = (await connection.execute(added)).scalar_one()
            await self.index.add(connection, values["owner"], number, [title])
            return number
        await connection.execute(
            update(conversations).where(conversations.c.number == old.number).values(values)
        )
        if old.title != values["title"]:
            await self.index.remove_title(connection, old.number)
            await self.index.add(connection, values["owner"], old.number, [title])
        return int(old.number)

    async def _add_messages(
        self, connection: AsyncConnection, owner: str, number: int, rows: NewRows
    ) -> None:
        if not rows.messages:
            return
        last = select(func.max(messages.c.position)).where(messages.c.conversation == number)
        first = (await connection.scalar(last) or 0) + 1
        numbered = [
            row | {"conversation": number, "position": position}
            for position, row in enumerate(rows.messages, first)
        ]
        await connection.execute(insert(messages), numbered)
        texts = [IndexedText(position, words) for position, words in enumerate(rows.texts, first)]
        await self.index.add(connection, owner, number, texts)
