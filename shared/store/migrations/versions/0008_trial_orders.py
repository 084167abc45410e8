"""Orders in which trials are shown."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("trials", sa.Column("seconds", sa.Double(), nullable=True))
    for column in ("value", "seconds", "status"):
        op.create_index(f"ix_trials_by_{column}", "trials", ["study_id", column, "number"])


def downgrade() -> None:
    for column in ("value", "seconds", "status"):
        op.drop_index(f"ix_trials_by_{column}", "trials")
    op.drop_column("trials", "seconds")
