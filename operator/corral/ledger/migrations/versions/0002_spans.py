"""Spans that wait to be exported, and the keys of those that were."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Makes the table."""
    op.create_table(
        "corral_spans",
        sa.Column("key", sa.String(), primary_key=True),
        sa.Column("made_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("spans", sa.BigInteger(), nullable=False),
        sa.Column("payload", sa.Text()),
    )
    op.create_index("corral_spans_made_at", "corral_spans", ["made_at"])
    waits = sa.text("payload IS NOT NULL")
    op.create_index(
        "corral_spans_waiting",
        "corral_spans",
        ["made_at"],
        sqlite_where=waits,
        postgresql_where=waits,
    )


def downgrade() -> None:
    """Drops it, with what waits."""
    op.drop_table("corral_spans")
