"""The rows of a new job, in the caller's transaction."""

from __future__ import annotations

from typing import Any

from sqlalchemy import Connection, insert, select

from shared.jobs import JobState
from shared.specs import JobSpec, TuneJob
from shared.specs.queueing import queue_of
from shared.store.database import Database
from shared.store.rows import emit, state_event
from shared.store.schema import job_labels, jobs, studies


def insert_job(
    db: Database,
    tx: Connection,
    job_id: str,
    spec: JobSpec,
    *,
    retry_of: str | None = None,
    resume_from: str | None = None,
    run: dict[str, Any] | None = None,
    parent_id: str | None = None,
    run_dir: str | None = None,
    request_id: str | None = None,
) -> None:
    """A job in the state ``queued``, with its labels and its first event; of a tune job, its study too."""
    now = db.now()
    place: dict[str, Any] = {
        "project": spec.project,
        "priority": spec.priority,
        "queue": queue_of(spec),
        "request_id": request_id,
    }
    if parent_id is not None:
        # as it is now: the study's priority may have been changed
        study = tx.execute(select(*(jobs.c[name] for name in place)).where(jobs.c.id == parent_id))
        place = dict(study.one()._mapping)
    tx.execute(
        insert(jobs).values(
            id=job_id,
            kind=spec.kind,
            name=spec.name,
            state=JobState.QUEUED,
            model=spec.publish.model if spec.publish else None,
            **place,
            labels=spec.labels,
            spec=spec.model_dump(mode="json"),
            created_at=now,
            updated_at=now,
            max_attempts=spec.retry.max_attempts,
            queued_until=now + spec.deadline.queue_seconds if spec.deadline.queue_seconds else None,
            metrics={},
            run=run or {},
            retry_of=retry_of,
            resume_from=resume_from,
            parent_id=parent_id,
            run_dir=run_dir,
        )
    )
    if spec.labels:
        rows = [{"key": key, "value": value, "job_id": job_id} for key, value in spec.labels.items()]
        db.insert(tx, job_labels, rows)
    if isinstance(spec, TuneJob):
        tx.execute(insert(studies).values(job_id=job_id, wake_at=now, attrs={}))
    emit(db, tx, job_id, [state_event(None, JobState.QUEUED, retry_of=retry_of)])
