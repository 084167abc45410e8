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
    UniqueConstraint,
    false,
    text,
)
from sqlalchemy.types import JSON as SQL_JSON

# None is SQL NULL, not the JSON text "null"
JSON = SQL_JSON(none_as_null=True)

# Written as constants wherever a query should use the partial indexes below: SQLite and PostgreSQL match them by text.
CLAIMABLE = "state = 'queued' AND kind <> 'tune' AND not_before IS NULL"
PUT_OFF = "state = 'queued' AND not_before IS NOT NULL"

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
    Column("project", String(63), nullable=False, server_default="default"),
    Column("priority", Integer, nullable=False, server_default="0"),  # higher first
    Column("queue", String(63), nullable=False, server_default="default"),
    Column("request_id", String(128)),  # of the request that made it; log lines carry it
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
    Column(
        "not_before", Double
    ),  # a queued job may not be claimed earlier; null: at once (the sweeper clears it)
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
    Column("parent_id", String(40)),  # the study that this job is a part of
    Index(None, "state", "id"),
    Index(None, "parent_id", "id"),
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

studies = Table(
    "studies",
    metadata,
    Column("job_id", String(40), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    # who advances it: a lease of its own, with a fencing token
    Column("wake_at", Double),  # when it is to be advanced next; null: when somebody wakes it
    Column("wakes", BigInteger, nullable=False, server_default="0"),  # how often it was woken
    Column("turn_token", String(40)),
    Column("turn_until", Double),
    # its trials in short, so that nobody need count them
    Column("revision", BigInteger, nullable=False, server_default="0"),  # of its trials; see trials.revision
    Column("inherited", Integer, nullable=False, server_default="0"),  # taken over from another study
    Column("asked", Integer, nullable=False, server_default="0"),
    Column("complete", Integer, nullable=False, server_default="0"),
    Column("pruned", Integer, nullable=False, server_default="0"),
    Column("failed", Integer, nullable=False, server_default="0"),
    Column("cancelled", Integer, nullable=False, server_default="0"),
    Column("best", Integer),  # number of the best trial, where there is one objective
    Column("attrs", JSON, nullable=False),  # what the optimiser remembers of the study
    Column("publisher", String(40)),  # the job that publishes the best trial
)
Index("ix_studies_wake_at", studies.c.wake_at, postgresql_where=studies.c.wake_at.is_not(None),
      sqlite_where=studies.c.wake_at.is_not(None))  # fmt: skip

trials = Table(
    "trials",
    metadata,
    Column("study_id", String(40), ForeignKey("studies.job_id", ondelete="CASCADE")),
    Column("number", Integer),  # from 0, without gaps
    Column("job_id", String(40), nullable=False, index=True),  # the train job
    Column("source", String(16), nullable=False),  # sampler, enqueued, inherited
    Column("params", JSON, nullable=False),
    Column("status", String(16)),  # how it ended; null: it has not, the job's state says more
    Column("values", JSON),
    Column("value", Double),  # of the first objective, to sort by
    Column("seconds", Double),  # from its job's start to its end, to sort by
    Column("intermediate", JSON),  # [[epoch, value], ...], of the first objective; null until it has ended
    Column("attrs", JSON, nullable=False),  # what the optimiser remembers of it
    Column("stop_epoch", Integer),  # the pruner wants it ended after this epoch
    Column("asked_at", Double, nullable=False),
    Column("told_at", Double),
    Column("revision", BigInteger, nullable=False),  # grows with each change, over all trials of the study
    PrimaryKeyConstraint("study_id", "number"),
    Index(None, "study_id", "revision"),
    Index("ix_trials_by_value", "study_id", "value", "number"),
    Index("ix_trials_by_seconds", "study_id", "seconds", "number"),
    Index("ix_trials_by_status", "study_id", "status", "number"),
)
# Those that have not ended; there are few, however many have.
Index("ix_trials_open", trials.c.study_id, postgresql_where=trials.c.status.is_(None),
      sqlite_where=trials.c.status.is_(None))  # fmt: skip
# The claim order reads these alone: they hold what may be claimed now, and what runs, never what has ended.
Index("ix_jobs_claimable_share", jobs.c.queue, jobs.c.priority, jobs.c.project, jobs.c.id,
      postgresql_where=text(CLAIMABLE), sqlite_where=text(CLAIMABLE))  # fmt: skip
Index("ix_jobs_claimable_order", jobs.c.queue, jobs.c.priority, jobs.c.id,
      postgresql_where=text(CLAIMABLE), sqlite_where=text(CLAIMABLE))  # fmt: skip
Index("ix_jobs_queued_project", jobs.c.project, jobs.c.queue, postgresql_where=text("state = 'queued'"),
      sqlite_where=text("state = 'queued'"))  # fmt: skip
Index("ix_jobs_put_off", jobs.c.not_before, postgresql_where=text(PUT_OFF), sqlite_where=text(PUT_OFF))
Index("ix_jobs_running_project", jobs.c.project, jobs.c.kind, postgresql_where=text("state = 'running'"),
      sqlite_where=text("state = 'running'"))  # fmt: skip

projects = Table(
    "projects",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("max_running", Integer),  # null: no limit
    Column("served_at", Double),  # when a job of it was last claimed
)

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
    Column("queues", JSON),  # names; null: the worker is older than queues, and serves the default one
    Column("draining", String(16)),  # "finish": no new jobs; "now": gives its jobs back; null: works
)

# Jobs that need several workers at once; see gangs.py. Rows are gone when the job is.
gangs = Table(
    "gangs",
    metadata,
    Column("job_id", String(40), ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    Column("token", String(40), nullable=False),  # the claim of the job that it belongs to
    Column("attempt", Integer, nullable=False),
    Column("leader", String(120), nullable=False),
    Column("state", String(16), nullable=False),
    Column("queue", String(63), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("size", Integer, nullable=False),  # workers, the leader among them
    Column("tries", Integer, nullable=False),  # times that members did not come
    Column("opened_at", Double, nullable=False),
)

gang_seats = Table(
    "gang_seats",
    metadata,
    Column("job_id", String(40), ForeignKey("gangs.job_id", ondelete="CASCADE")),
    Column("number", Integer),
    Column("name", String(40), nullable=False),
    Column("token", String(40)),  # of who sits there; null: open
    Column("worker_id", String(120)),
    Column("host", String(255)),
    Column("port", Integer),
    Column("gpus", JSON),
    Column("orders", JSON, nullable=False),  # the leader's words
    Column("said", JSON, nullable=False),  # the member's
    Column("renewals", Integer, nullable=False, server_default="0"),
    Column("lease_until", Double),
    PrimaryKeyConstraint("job_id", "number"),
    UniqueConstraint("job_id", "worker_id"),
    Index(None, "worker_id"),
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("name", String(120), nullable=False),
    Column("prefix", String(16), nullable=False, unique=True),
    Column("sha256", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    Column("project", String(63)),
    Column("limits", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("created_by", String(200), nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
    Column("last_used_at", Double),
)

# of browsers: an opaque token, kept as its hash
sessions = Table(
    "sessions",
    metadata,
    Column("sha256", String(64), primary_key=True),
    Column("key_id", String(40), ForeignKey("api_keys.id", ondelete="CASCADE"), nullable=False, index=True),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False, index=True),
)

# Only ever added to: the migration that makes it also makes triggers that refuse changes.
audit_log = Table(
    "audit_log",
    metadata,
    Column("seq", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
    Column("at", Double, nullable=False),
    Column("key_id", String(40)),
    Column("who", String(200), nullable=False),
    Column("role", String(16)),
    Column("method", String(16), nullable=False),
    Column("route", String(200), nullable=False),
    Column("target", String(500), nullable=False),
    Column("status", Integer, nullable=False),
    Column("request_id", String(128), nullable=False),
    Column("address", String(64)),
    Index(None, "key_id", "seq"),
)
