"""Run by Alembic: migrates on the connection that ``store`` hands over."""

from alembic import context

from corral.ledger.table import METADATA, VERSION_TABLE

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    version_table=VERSION_TABLE,
)
with context.begin_transaction():
    context.run_migrations()
