"""Defines the tables of the database. `migrations` creates them; a test compares the two."""

from datetime import UTC, datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Column,
    DateTime,
    Dialect,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    TypeDecorator,
    UniqueConstraint,
)
from sqlalchemy.types import TypeEngine

metadata = MetaData()


class UtcTime(TypeDecorator[datetime]):
    """A time with microseconds. SQLite stores it as text that sorts by time."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:  # Any: text or time
        is_text = dialect.name == "sqlite"
        return dialect.type_descriptor(Text() if is_text else DateTime(timezone=True))

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> object:
        if value is None:
            return None
        moment = _in_utc(value)
        return moment.isoformat(timespec="microseconds") if dialect.name == "sqlite" else moment

    def process_result_value(self, value: Any, dialect: Dialect) -> datetime | None:  # Any: text or time
        moment: datetime | None = datetime.fromisoformat(value) if isinstance(value, str) else value
        return moment


class AnyText(TypeDecorator[str]):
    """A text that may contain null characters, which PostgreSQL does not store: they are escaped."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else value.replace("\\", "\\\\").replace("\0", "\\0")

    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        if value is None or "\\" not in value:
            return value
        return "\\".join(piece.replace("\\0", "\0") for piece in value.split("\\\\"))


def _in_utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:  # in a transcript
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # in the first or the last hours of the calendar
        return moment.replace(tzinfo=UTC)


NUMBER = BigInteger().with_variant(Integer(), "sqlite")  # SQLite numbers only INTEGER keys by itself
ID = Text().with_variant(Text(collation="C"), "postgresql")  # ordered by bytes, as SQLite and Python do

conversations = Table(
    "conversations",
    metadata,
    Column("number", NUMBER, primary_key=True),
    Column("id", ID, nullable=False),
    Column("owner", ID, nullable=False),
    Column("title", AnyText),
    Column("system_prompt", AnyText, nullable=False),
    Column("model_name", AnyText),
    Column("head_id", ID),
    Column("message_count", Integer, nullable=False),
    Column("messages_bytes", BigInteger, nullable=False),
    Column("preview", AnyText, nullable=False),
    Column("metadata", Text, nullable=False, server_default="{}"),  # JSON
    Column("deleted_replies", Text, nullable=False, server_default="[]"),  # JSON
    Column("created_at", UtcTime, nullable=False),
    Column("updated_at", UtcTime, nullable=False),
    UniqueConstraint("id", name="conversations_id"),
    Index("conversations_by_change", "owner", "updated_at", "id"),
)

# `position` counts a conversation's messages in the order of their commits, from 1 on.
messages = Table(
    "messages",
    metadata,
    Column(
        "conversation",
        NUMBER,
        ForeignKey("conversations.number", name="messages_conversation", ondelete="CASCADE"),
        primary_key=True,
    ),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("id", ID, nullable=False),
    Column("parent_id", ID),
    Column("depth", Integer, nullable=False),
    Column("role", Text, nullable=False),
    Column("parts", Text, nullable=False),  # JSON
    Column("reply", Text),  # JSON
    Column("timestamp", UtcTime, nullable=False),
    UniqueConstraint("conversation", "id", name="messages_id"),
    ForeignKeyConstraint(
        ("conversation", "parent_id"), ("messages.conversation", "messages.id"), name="messages_parent"
    ),
    Index("messages_by_parent", "conversation", "parent_id"),
    sqlite_with_rowid=False,
)

# Which process answers in a conversation, and until when it is expected to say so again. `expires_at` is in
# seconds since 1970, by the clock of the database.
turn_leases = Table(
    "turn_leases",
    metadata,
    Column("conversation_id", ID, primary_key=True),
    Column("holder", ID, nullable=False),
    Column("expires_at", Float(53), nullable=False),
)

# The newest turn in the background of each conversation. `content` is JSON: what is stored if its process
# dies; null once its reply is stored.
open_turns = Table(
    "open_turns",
    metadata,
    Column("conversation_id", ID, primary_key=True),
    Column("owner", ID, nullable=False),
    Column("message_id", ID, nullable=False),
    Column("content", AnyText),
    UniqueConstraint("message_id", name="open_turns_message"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("owner", ID, primary_key=True),
    Column("key", ID, primary_key=True),
    Column("body_hash", LargeBinary, nullable=False),
    Column("conversation_id", ID, nullable=False),
    Column("message_id", ID, nullable=False),
    Column("created_at", UtcTime, nullable=False),
    Index("idempotency_keys_by_age", "created_at"),
)
