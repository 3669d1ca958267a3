"""Alembic runs this module to apply migrations. The connection comes from `upgrade.py`."""

from alembic import context

from app.models.storage.sql.migrations.upgrade import VERSION_TABLE
from app.models.storage.sql.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    version_table=VERSION_TABLE,
    transactional_ddl=True,
)
context.run_migrations()
