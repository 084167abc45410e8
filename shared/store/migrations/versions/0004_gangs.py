"""Gangs: jobs of several workers, and the seats that other workers take in them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "gangs",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("token", sa.String(length=40), nullable=False),
        sa.Column("attempt", sa.Integer(), nullable=False),
        sa.Column("leader", sa.String(length=120), nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("queue", sa.String(length=63), nullable=False),
        sa.Column("priority", sa.Integer(), nullable=False),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("tries", sa.Integer(), nullable=False),
        sa.Column("opened_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_gangs_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_gangs")),
    )
    op.create_table(
        "gang_seats",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("name", sa.String(length=40), nullable=False),
        sa.Column("token", sa.String(length=40), nullable=True),
        sa.Column("worker_id", sa.String(length=120), nullable=True),
        sa.Column("host", sa.String(length=255), nullable=True),
        sa.Column("port", sa.Integer(), nullable=True),
        sa.Column("gpus", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("orders", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("said", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("renewals", sa.Integer(), server_default="0", nullable=False),
        sa.Column("lease_until", sa.Double(), nullable=True),
        sa.ForeignKeyConstraint(
            ["job_id"], ["gangs.job_id"], name=op.f("fk_gang_seats_job_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("job_id", "number", name=op.f("pk_gang_seats")),
        sa.UniqueConstraint("job_id", "worker_id", name=op.f("uq_gang_seats_job_id_worker_id")),
    )
    op.create_index(op.f("ix_gang_seats_worker_id"), "gang_seats", ["worker_id"], unique=False)


def downgrade() -> None:
    op.drop_index(op.f("ix_gang_seats_worker_id"), table_name="gang_seats")
    op.drop_table("gang_seats")
    op.drop_table("gangs")
