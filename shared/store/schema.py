"""The tables. Times are seconds since the epoch, UTC, as doubles, by the database's clock.

Migrations in ``migrations/versions`` are what really makes them; a test compares both.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    String,
    Table,
    false,
)
from sqlalchemy.types import JSON as SQL_JSON

# None is SQL NULL, not the JSON text "null"
JSON = SQL_JSON(none_as_null=True)

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "pk": "pk_%(table_name)s",
    }
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("name", String(200)),
    Column("state", String(16), nullable=False),
    Column("stage", String(40)),
    Column("model", String(63)),
    Column("labels", JSON, nullable=False),
    Column("spec", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("started_at", Double),
    Column("updated_at", Double, nullable=False),
    Column("finished_at", Double),
    # claim, lease, fence
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column(
        "losses", Integer, nullable=False, server_default="0"
    ),  # attempts that ended by no fault of the spec
    Column("max_attempts", Integer, nullable=False),
    Column("claim_token", String(40)),
    Column("worker_id", String(120)),
    Column("lease_until", Double),
    Column("cancel_requested", Boolean, nullable=False, server_default=false()),
    Column("cancel_asked_at", Double),
    Column("cancel_asked_by", String(200)),
    Column("not_before", Double),  # a queued job may not be claimed earlier; null: at once
    Column("queued_until", Double),  # a job still queued then has missed its deadline; null: never
    Column("sent_at", Double),  # when its id was last put on the queue; null: not since it became queued
    # what people look at
    Column("progress", JSON),
    Column("metrics", JSON, nullable=False),
    Column("run", JSON, nullable=False),
    Column("error", JSON),
    Column("result", JSON),
    Column("run_dir", String(300)),
    Column("retry_of", String(40)),
    Column("resume_from", String(300)),
    Column("event_seq", BigInteger, nullable=False, server_default="0"),
    Index(None, "state", "id"),
    Index(None, "model", "id"),
    Index(None, "worker_id", "state"),
)

# The sweeper looks at these three sets every few seconds; they stay small however long the history grows.
Index("ix_jobs_running_lease", jobs.c.lease_until, postgresql_where=jobs.c.state == "running",
      sqlite_where=jobs.c.state == "running")  # fmt: skip
Index("ix_jobs_queued_sent", jobs.c.sent_at, jobs.c.id, postgresql_where=jobs.c.state == "queued",
      sqlite_where=jobs.c.state == "queued")  # fmt: skip
Index("ix_jobs_queued_until", jobs.c.queued_until, postgresql_where=jobs.c.state == "queued",
      sqlite_where=jobs.c.state == "queued")  # fmt: skip

job_labels = Table(
    "job_labels",
    metadata,
    Column("key", String(63)),
    Column("value", String(63)),
    Column("job_id", String(40), ForeignKey("jobs.id", ondelete="CASCADE")),
    PrimaryKeyConstraint("key", "value", "job_id"),
)

attempts = Table(
    "attempts",
    metadata,
    Column("job_id", String(40), ForeignKey("jobs.id", ondelete="CASCADE")),
    Column("number", Integer),
    Column("worker_id", String(120), nullable=False),
    Column("started_at", Double, nullable=False),
    Column("finished_at", Double),
    Column("outcome", String(16)),
    Column("error", JSON),
    PrimaryKeyConstraint("job_id", "number"),
)

job_events = Table(
    "job_events",
    metadata,
    Column("job_id", String(40), ForeignKey("jobs.id", ondelete="CASCADE")),
    Column("seq", BigInteger),
    Column("at", Double, nullable=False),
    Column("type", String(32), nullable=False),
    Column("data", JSON, nullable=False),
    PrimaryKeyConstraint("job_id", "seq"),
)

job_metrics = Table(
    "job_metrics",
    metadata,
    Column("job_id", String(40), ForeignKey("jobs.id", ondelete="CASCADE")),
    Column("name", String(120)),
    Column("step", BigInteger),
    Column("epoch", Integer, nullable=False),
    Column("value", Double),  # null: not finite
    Column("at", Double, nullable=False),
    PrimaryKeyConstraint("job_id", "name", "step"),
)

idempotency_keys = Table(
    "idempotency_keys",
    metadata,
    Column("key", String(255), primary_key=True),
    Column("body_sha256", String(64), nullable=False),
    Column("job_id", String(40), ForeignKey("jobs.id", ondelete="CASCADE"), nullable=False),
    Column("created_at", Double, nullable=False),
)

datasets = Table(
    "datasets",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("size_bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False, index=True),
    Column("path", String(4096), nullable=False),  # relative to <home>/datasets
    Column("created_at", Double, nullable=False),
    Column("info", JSON, nullable=False),
)

models = Table(
    "models",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("created_at", Double, nullable=False),
    Column("last_version", BigInteger, nullable=False, server_default="0"),  # highest ever; never goes down
    Column(
        "traffic", JSON
    ),  # {"default": version, "pending": {label: versions}, "released": {version: when}}
    Column("traffic_at", Double, index=True),  # when what should be loaded last changed
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("model", String(63), ForeignKey("models.name", ondelete="CASCADE")),
    Column("version", BigInteger),
    Column("job_id", String(40), index=True),
    Column("created_at", Double, nullable=False),
    Column("deleted_at", Double),
    Column("size_bytes", BigInteger, nullable=False),
    Column("metrics", JSON, nullable=False),
    Column("signatures", JSON, nullable=False),
    Column("classes", JSON),
    Column("lineage", JSON, nullable=False),
    PrimaryKeyConstraint("model", "version"),
)

model_labels = Table(
    "model_labels",
    metadata,
    Column("model", String(63), ForeignKey("models.name", ondelete="CASCADE")),
    Column("label", String(63)),
    Column("version", BigInteger, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("route", JSON),  # a LabelRoute; null: everything to ``version``
    Column("history", JSON),  # earlier routes, the last one last
    PrimaryKeyConstraint("model", "label"),
)

model_events = Table(
    "model_events",
    metadata,
    Column("model", String(63), ForeignKey("models.name", ondelete="CASCADE")),
    Column("seq", BigInteger),
    Column("at", Double, nullable=False),
    Column("type", String(32), nullable=False),
    Column("data", JSON, nullable=False),
    PrimaryKeyConstraint("model", "seq"),
)

workers = Table(
    "workers",
    metadata,
    Column("id", String(120), primary_key=True),
    Column("host", String(255), nullable=False),
    Column("pid", Integer, nullable=False),
    Column("slots", Integer, nullable=False),
    Column("started_at", Double, nullable=False),
    Column("heartbeat_at", Double, nullable=False),
    Column("info", JSON, nullable=False),
)
