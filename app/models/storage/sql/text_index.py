"""The full-text indexes of SQLite and PostgreSQL, which use the definition of a word in `search.py`.

The words of a text are found in Python. Each begins with a tag of its owner, so that a search reads nothing
that another owner wrote.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import (
    BigInteger,
    Column,
    ColumnElement,
    Integer,
    MetaData,
    Select,
    Table,
    Text,
    bindparam,
    cast,
    column,
    delete,
    exists,
    func,
    insert,
    literal,
    literal_column,
    select,
    table,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, TSQUERY, TSVECTOR
from sqlalchemy.ext.asyncio import AsyncConnection

TITLE = 0  # the position of a title; a message has its own
_SHIFT = 24  # SQLite's row id is the conversation's number, shifted, and the position


@dataclass(frozen=True, slots=True)
class IndexedText:
    """The words of a title or of a message's text."""

    position: int
    words: Sequence[str]


class TextIndex(Protocol):
    """Finds conversations by the words of their titles and messages. `conversation` is a row's number."""

    async def add(
        self, connection: AsyncConnection, owner: str, conversation: int, texts: Sequence[IndexedText]
    ) -> None:
        """Adds texts. Those without words take no room."""

    async def remove_title(self, connection: AsyncConnection, conversation: int) -> None: ...

    async def remove(self, connection: AsyncConnection, conversation: int) -> None:
        """Removes all texts of the conversation."""

    async def size(self, connection: AsyncConnection, conversation: int) -> int:
        """Returns how many texts of the conversation it has."""

    def found(self, owner: str, words: Sequence[str]) -> Select[int]:
        """Selects the numbers of the owner's conversations in which one text has all words."""

    def has_words(self, owner: str, words: Sequence[str], number: ColumnElement[int]) -> ColumnElement[bool]:
        """Returns a condition: a text of the owner's conversation with this number has all words.

        The database reads the conversation's texts for it, and nothing of the others.
        """


def owner_tag(owner: str) -> str:
    """Eight characters that begin each indexed word of an owner."""
    return hashlib.sha256(owner.encode()).hexdigest()[:8]


class SqliteTextIndex:
    """An FTS5 table whose tokenizer splits at blanks only."""

    _table = table("search_texts", column("rowid", BigInteger), column("words", Text))

    async def add(
        self, connection: AsyncConnection, owner: str, conversation: int, texts: Sequence[IndexedText]
    ) -> None:
        """See TextIndex."""
        tag = owner_tag(owner)
        rows = [
            {
                "rowid": (conversation << _SHIFT) + each.position,
                "words": " ".join(tag + word for word in each.words),
            }
            for each in texts
            if each.words
        ]
        if rows:
            await connection.execute(insert(self._table), rows)

    async def remove_title(self, connection: AsyncConnection, conversation: int) -> None:
        """See TextIndex."""
        await connection.execute(delete(self._table).where(self._table.c.rowid == conversation << _SHIFT))

    async def remove(self, connection: AsyncConnection, conversation: int) -> None:
        """See TextIndex."""
        first, following = conversation << _SHIFT, (conversation + 1) << _SHIFT
        rowid = self._table.c.rowid
        await connection.execute(delete(self._table).where(rowid >= first, rowid < following))

    async def size(self, connection: AsyncConnection, conversation: int) -> int:
        """See TextIndex."""
        first, following = conversation << _SHIFT, (conversation + 1) << _SHIFT
        rowid = self._table.c.rowid
        query = select(func.count()).select_from(self._table).where(rowid >= first, rowid < following)
        return await connection.scalar(query) or 0

    def found(self, owner: str, words: Sequence[str]) -> Select[int]:
        """See TextIndex."""
        tag = owner_tag(owner)
        query = " AND ".join(f'"{tag}{word}"*' for word in words)
        number = literal_column(f"rowid >> {_SHIFT}", BigInteger)
        condition = text("search_texts MATCH :query").bindparams(bindparam("query", query, Text))
        return select(number).distinct().select_from(self._table).where(condition)

    def has_words(self, owner: str, words: Sequence[str], number: ColumnElement[int]) -> ColumnElement[bool]:
        """See TextIndex."""
        tag, columns = owner_tag(owner), self._table.c
        text_words = literal(" ", Text).concat(columns.words)
        first, following = (each.bitwise_lshift(_SHIFT) for each in (number, number + 1))
        return exists().where(
            columns.rowid >= first,
            columns.rowid < following,
            *(func.instr(text_words, f" {tag}{word}") > 0 for word in words),
        )


class PostgresTextIndex:
    """A table of tsvectors with a GIN index. The words come as they are, without PostgreSQL's parser."""

    _table = Table(
        "search_texts",
        MetaData(),
        Column("conversation", BigInteger, primary_key=True),
        Column("position", Integer, primary_key=True),
        Column("words", TSVECTOR, nullable=False),
    )

    async def add(
        self, connection: AsyncConnection, owner: str, conversation: int, texts: Sequence[IndexedText]
    ) -> None:
        """See TextIndex."""
        tag = owner_tag(owner)
        for each in texts:
            if each.words:
                words = cast(literal([tag + word for word in each.words], ARRAY(Text)), ARRAY(Text))
                values = {
                    "conversation": conversation,
                    "position": each.position,
                    "words": func.array_to_tsvector(words),
                }
                await connection.execute(insert(self._table).values(values))

    async def remove_title(self, connection: AsyncConnection, conversation: int) -> None:
        """See TextIndex."""
        columns = self._table.c
        await connection.execute(
            delete(self._table).where(columns.conversation == conversation, columns.position == TITLE)
        )

    async def remove(self, connection: AsyncConnection, conversation: int) -> None:
        """See TextIndex."""
        await connection.execute(delete(self._table).where(self._table.c.conversation == conversation))

    async def size(self, connection: AsyncConnection, conversation: int) -> int:
        """See TextIndex."""
        query = select(func.count()).where(self._table.c.conversation == conversation)
        return await connection.scalar(query) or 0

    def found(self, owner: str, words: Sequence[str]) -> Select[int]:
        """See TextIndex."""
        return select(self._table.c.conversation).distinct().where(self._match(owner, words))

    def has_words(self, owner: str, words: Sequence[str], number: ColumnElement[int]) -> ColumnElement[bool]:
        """See TextIndex."""
        return exists().where(self._table.c.conversation == number, self._match(owner, words))

    def _match(self, owner: str, words: Sequence[str]) -> ColumnElement[bool]:
        tag = owner_tag(owner)
        query = " & ".join(f"'{tag}{word}':*" for word in words)
        return self._table.c.words.bool_op("@@")(cast(literal(query, Text), TSQUERY))
