"""Creates the tables of conversations, messages, turn leases and keys, and the full-text index."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TSVECTOR

revision = "0001"
down_revision = None

_NUMBER = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
_TIME = sa.DateTime(timezone=True).with_variant(sa.Text(), "sqlite")


def upgrade() -> None:
    _create_conversations()
    _create_messages()
    op.create_table(
        "turn_leases",
        sa.Column("conversation_id", _ID, primary_key=True),
        sa.Column("holder", _ID, nullable=False),
        sa.Column("expires_at", sa.Float(53), nullable=False),
    )
    _create_idempotency_keys()
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE VIRTUAL TABLE search_texts USING fts5("
            "words, detail=none, columnsize=0, tokenize=\"ascii tokenchars '_'\")"
        )
    else:
        _create_search_texts()


def _create_conversations() -> None:
    op.create_table(
        "conversations",
        sa.Column("number", _NUMBER, primary_key=True),
        sa.Column("id", _ID, nullable=False),
        sa.Column("owner", _ID, nullable=False),
        sa.Column("title", sa.Text),
        sa.Column("system_prompt", sa.Text, nullable=False),
        sa.Column("model_name", sa.Text),
        sa.Column("head_id", _ID),
        sa.Column("message_count", sa.Integer, nullable=False),
        sa.Column("messages_bytes", sa.BigInteger, nullable=False),
        sa.Column("preview", sa.Text, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
        sa.Column("updated_at", _TIME, nullable=False),
        sa.UniqueConstraint("id", name="conversations_id"),
    )
    op.create_index("conversations_by_change", "conversations", ["owner", "updated_at", "id"])


def _create_messages() -> None:
    op.create_table(
        "messages",
        sa.Column("conversation", _NUMBER, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("id", _ID, nullable=False),
        sa.Column("parent_id", _ID),
        sa.Column("depth", sa.Integer, nullable=False),
        sa.Column("role", sa.Text, nullable=False),
        sa.Column("parts", sa.Text, nullable=False),
        sa.Column("reply", sa.Text),
        sa.Column("timestamp", _TIME, nullable=False),
        sa.ForeignKeyConstraint(
            ["conversation"], ["conversations.number"], name="messages_conversation", ondelete="CASCADE"
        ),
        sa.UniqueConstraint("conversation", "id", name="messages_id"),
        sa.ForeignKeyConstraint(
            ["conversation", "parent_id"], ["messages.conversation", "messages.id"], name="messages_parent"
        ),
        sqlite_with_rowid=False,
    )
    op.create_index("messages_by_parent", "messages", ["conversation", "parent_id"])


def _create_idempotency_keys() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", _ID, primary_key=True),
        sa.Column("key", _ID, primary_key=True),
        sa.Column("body_hash", sa.LargeBinary, nullable=False),
        sa.Column("conversation_id", _ID, nullable=False),
        sa.Column("message_id", _ID, nullable=False),
        sa.Column("created_at", _TIME, nullable=False),
    )
    op.create_index("idempotency_keys_by_age", "idempotency_keys", ["created_at"])


def _create_search_texts() -> None:
    op.create_table(
        "search_texts",
        sa.Column("conversation", sa.BigInteger, primary_key=True),
        sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("words", TSVECTOR, nullable=False),
        sa.ForeignKeyConstraint(
            ["conversation"], ["conversations.number"], name="search_texts_conversation", ondelete="CASCADE"
        ),
    )
    op.create_index("search_texts_words", "search_texts", ["words"], postgresql_using="gin")
