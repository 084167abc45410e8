"""Deadlines, pauses before a retry, and who cancelled."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("cancel_asked_at", sa.Double(), nullable=True))
    op.add_column("jobs", sa.Column("cancel_asked_by", sa.String(length=200), nullable=True))
    op.add_column("jobs", sa.Column("not_before", sa.Double(), nullable=True))
    op.add_column("jobs", sa.Column("queued_until", sa.Double(), nullable=True))
    op.create_index(
        "ix_jobs_queued_until",
        "jobs",
        ["queued_until"],
        unique=False,
        postgresql_where=sa.text("state = 'queued'"),
        sqlite_where=sa.text("state = 'queued'"),
    )
