"""Studies and their trials; which job is a part of which."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("jobs", sa.Column("parent_id", sa.String(length=40), nullable=True))
    op.create_index(op.f("ix_jobs_parent_id_id"), "jobs", ["parent_id", "id"], unique=False)
    op.create_table(
        "studies",
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("wake_at", sa.Double(), nullable=True),
        sa.Column("wakes", sa.BigInteger(), server_default="0", nullable=False),
        sa.Column("turn_token", sa.String(length=40), nullable=True),
        sa.Column("turn_until", sa.Double(), nullable=True),
        sa.Column("revision", sa.BigInteger(), server_default="0", nullable=False),
        *(
            sa.Column(name, sa.Integer(), server_default="0", nullable=False)
            for name in ("inherited", "asked", "complete", "pruned", "failed", "cancelled")
        ),
        sa.Column("best", sa.Integer(), nullable=True),
        sa.Column("attrs", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("publisher", sa.String(length=40), nullable=True),
        sa.ForeignKeyConstraint(["job_id"], ["jobs.id"], name=op.f("fk_studies_job_id"), ondelete="CASCADE"),
        sa.PrimaryKeyConstraint("job_id", name=op.f("pk_studies")),
    )
    awake = sa.text("wake_at IS NOT NULL")
    op.create_index("ix_studies_wake_at", "studies", ["wake_at"], postgresql_where=awake, sqlite_where=awake)
    op.create_table(
        "trials",
        sa.Column("study_id", sa.String(length=40), nullable=False),
        sa.Column("number", sa.Integer(), nullable=False),
        sa.Column("job_id", sa.String(length=40), nullable=False),
        sa.Column("source", sa.String(length=16), nullable=False),
        sa.Column("params", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("status", sa.String(length=16), nullable=True),
        sa.Column("values", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("value", sa.Double(), nullable=True),
        sa.Column("intermediate", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("attrs", sa.JSON(none_as_null=True), nullable=False),
        sa.Column("stop_epoch", sa.Integer(), nullable=True),
        sa.Column("asked_at", sa.Double(), nullable=False),
        sa.Column("told_at", sa.Double(), nullable=True),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["study_id"], ["studies.job_id"], name=op.f("fk_trials_study_id"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("study_id", "number", name=op.f("pk_trials")),
    )
    op.create_index(op.f("ix_trials_job_id"), "trials", ["job_id"])
    op.create_index(op.f("ix_trials_study_id_revision"), "trials", ["study_id", "revision"])
    unfinished = sa.text("status IS NULL")
    op.create_index(
        "ix_trials_open", "trials", ["study_id"], postgresql_where=unfinished, sqlite_where=unfinished
    )


def downgrade() -> None:
    op.drop_table("trials")
    op.drop_table("studies")
    op.drop_index(op.f("ix_jobs_parent_id_id"), table_name="jobs")
    op.drop_column("jobs", "parent_id")
