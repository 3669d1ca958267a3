"""Adds the turns in the background that have begun."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"

_ID = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "open_turns",
        sa.Column("conversation_id", _ID, primary_key=True),
        sa.Column("owner", _ID, nullable=False),
        sa.Column("message_id", _ID, nullable=False),
        sa.Column("content", sa.Text),
        sa.UniqueConstraint("message_id", name="open_turns_message"),
    )
