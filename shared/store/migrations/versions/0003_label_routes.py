"""Labels that split, shadow and remember; a model's default version; what happened to a model."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("traffic", sa.JSON(none_as_null=True), nullable=True))
    op.add_column("models", sa.Column("traffic_at", sa.Double(), nullable=True))
    op.create_index(op.f("ix_models_traffic_at"), "models", ["traffic_at"], unique=False)
    for name in ("route", "history"):
        op.add_column("model_labels", sa.Column(name, sa.JSON(none_as_null=True), nullable=True))
    op.create_table(
        "model_events",
        sa.Column("model", sa.String(length=63), nullable=False),
        sa.Column("seq", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("type", sa.String(length=32), nullable=False),
        sa.Column("data", sa.JSON(none_as_null=True), nullable=False),
        sa.ForeignKeyConstraint(
            ["model"], ["models.name"], name=op.f("fk_model_events_model"), ondelete="CASCADE"
        ),
        sa.PrimaryKeyConstraint("model", "seq", name=op.f("pk_model_events")),
    )


def downgrade() -> None:
    op.drop_table("model_events")
    for name in ("history", "route"):
        op.drop_column("model_labels", name)
    op.drop_index(op.f("ix_models_traffic_at"), table_name="models")
    op.drop_column("models", "traffic_at")
    op.drop_column("models", "traffic")
