"""Adds the metadata of conversations, and the ids of deleted replies."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    for name, empty in (("metadata", "{}"), ("deleted_replies", "[]")):
        op.add_column("conversations", sa.Column(name, sa.Text, nullable=False, server_default=empty))
