"""Indexes the beginnings of words in SQLite, so that a search for few letters need not read all such words.

PostgreSQL's index has its words in order, and needs nothing more.
"""

from alembic import op

revision = "0003"
down_revision = "0002"

# Each word begins with eight characters for its owner; then the first three letters count.
_PREFIXES = "9 10 11"


def upgrade() -> None:
    if op.get_bind().dialect.name != "sqlite":
        return
    op.execute(
        "CREATE VIRTUAL TABLE new_search_texts USING fts5("
        f"words, detail=none, columnsize=0, prefix='{_PREFIXES}', tokenize=\"ascii tokenchars '_'\")"
    )
    op.execute("INSERT INTO new_search_texts(rowid, words) SELECT rowid, words FROM search_texts")
    op.execute("DROP TABLE search_texts")
    op.execute("ALTER TABLE new_search_texts RENAME TO search_texts")
