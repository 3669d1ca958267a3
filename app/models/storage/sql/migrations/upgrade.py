"""Brings the tables of the database up to date, with Alembic."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from app.core.errors import StoreUnavailable

VERSION_TABLE = "conversations_schema"  # not Alembic's default: other programs may share the database
_LOCK = 0x6C6C6D5F636F6E76  # of PostgreSQL, while the tables are changed; the number is arbitrary


def is_up_to_date(connection: Connection) -> bool:
    """Returns whether the tables are those of this program.

    Raises:
        StoreUnavailable: a newer program has changed them.
    """
    context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
    script = ScriptDirectory.from_config(_config(connection))
    found, newest = context.get_current_revision(), script.get_current_head()
    if found is not None and found not in {each.revision for each in script.walk_revisions()}:
        raise StoreUnavailable(
            "The database was changed by a newer version of this program.",
            hint="Update the program, or set LLM_DATABASE_URL to another database.",
        )
    return found == newest


def bring_up_to_date(connection: Connection, revision: str = "head") -> None:
    """Creates or changes the tables within the connection's transaction, unless another process did so.

    A `revision` other than the newest gives the tables of an older program.
    """
    if connection.dialect.name == "postgresql":
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    if not is_up_to_date(connection):
        command.upgrade(_config(connection), revision)


def _config(connection: Connection) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
