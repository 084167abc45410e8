"""Queues, priorities, projects and their limits; workers that drain."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_CLAIMABLE = "state = 'queued' AND kind <> 'tune' AND not_before IS NULL"
_INDEXES = {
    "ix_jobs_claimable_share": (["queue", "priority", "project", "id"], _CLAIMABLE),
    "ix_jobs_claimable_order": (["queue", "priority", "id"], _CLAIMABLE),
    "ix_jobs_queued_project": (["project", "queue"], "state = 'queued'"),
    "ix_jobs_put_off": (["not_before"], "state = 'queued' AND not_before IS NOT NULL"),
    "ix_jobs_running_project": (["project", "kind"], "state = 'running'"),
}


def upgrade() -> None:
    for name, kind, default in (
        ("project", sa.String(63), "default"),
        ("priority", sa.Integer(), "0"),
        ("queue", sa.String(63), "default"),
    ):
        op.add_column("jobs", sa.Column(name, kind, nullable=False, server_default=default))
    for name, (columns, where) in _INDEXES.items():
        op.create_index(
            name,
            "jobs",
            columns,
            unique=False,
            postgresql_where=sa.text(where),
            sqlite_where=sa.text(where),
        )
    op.add_column("workers", sa.Column("queues", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("workers", sa.Column("draining", sa.String(16), nullable=True))
    op.create_table(
        "projects",
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("max_running", sa.Integer(), nullable=True),
        sa.Column("served_at", sa.Double(), nullable=True),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_projects")),
    )
