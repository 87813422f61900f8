"""The ledger. Types are spelt out: what a migration does must not change with the code."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    """Makes the table."""
    amount = sa.Text() if op.get_bind().dialect.name == "sqlite" else sa.Numeric()
    op.create_table(
        "corral_ledger",
        sa.Column("attempt_id", sa.String(), primary_key=True),
        sa.Column("model_ref", sa.String(), primary_key=True),
        sa.Column("simulated", sa.Boolean(), primary_key=True),
        sa.Column("recorded_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("namespace", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("workflow", sa.String()),
        sa.Column("template", sa.String()),
        sa.Column("parent", sa.String()),
        sa.Column("cron", sa.String()),
        sa.Column("agent", sa.String()),
        sa.Column("step", sa.String(), nullable=False),
        sa.Column("item", sa.BigInteger(), nullable=False),
        sa.Column("iteration", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("purpose", sa.String(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("provider", sa.String(), nullable=False),
        sa.Column("model", sa.String(), nullable=False),
        sa.Column("requests", sa.BigInteger(), nullable=False),
        sa.Column("input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("output_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cached_input_tokens", sa.BigInteger(), nullable=False),
        sa.Column("cost_usd", amount),
        sa.Column("price_source", sa.String()),
        sa.Column("unpriced_requests", sa.BigInteger(), nullable=False),
    )
    op.create_index("corral_ledger_recorded_at", "corral_ledger", ["recorded_at"])
    op.create_index("corral_ledger_run_id", "corral_ledger", ["run_id"])


def downgrade() -> None:
    """Drops it, with all that is in it."""
    op.drop_table("corral_ledger")
