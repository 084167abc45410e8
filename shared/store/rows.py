"""Rows to records, and the one way to write an event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update

from shared.errors import NotFound
from shared.jobs import Attempt, AttemptOutcome, Job, JobError, JobState
from shared.store.database import Database, json_safe
from shared.store.schema import attempts, job_events, jobs


def job_from(row: Row[Any], tries: Iterable[Attempt] = ()) -> Job:
    """The record of one row of ``jobs``."""
    data = row._mapping
    return Job(
        id=data["id"],
        kind=data["kind"],
        name=data["name"],
        state=JobState(data["state"]),
        stage=data["stage"],
        model=data["model"],
        labels=data["labels"],
        spec=data["spec"],
        created_at=data["created_at"],
        started_at=data["started_at"],
        updated_at=data["updated_at"],
        finished_at=data["finished_at"],
        attempt=data["attempt"],
        max_attempts=data["max_attempts"],
        cancel_requested=bool(data["cancel_requested"]),
        not_before=data["not_before"],
        worker_id=data["worker_id"],
        lease_until=data["lease_until"],
        progress=data["progress"],
        metrics=data["metrics"],
        run=data["run"],
        error=data["error"],
        result=data["result"],
        run_dir=data["run_dir"],
        retry_of=data["retry_of"],
        resume_from=data["resume_from"],
        event_seq=data["event_seq"],
        attempts=tuple(tries),
    )


def read_job(connection: Connection, job_id: str) -> Job:
    """One job with its attempts.

    Raises:
        NotFound: no such job.
    """
    row = connection.execute(select(jobs).where(jobs.c.id == job_id)).one_or_none()
    if row is None:
        raise NotFound(f"There is no job {job_id!r}.", code="job_not_found")
    tries = connection.execute(
        select(attempts).where(attempts.c.job_id == job_id).order_by(attempts.c.number)
    ).all()
    return job_from(
        row,
        (
            Attempt(
                number=item.number,
                worker_id=item.worker_id,
                started_at=item.started_at,
                finished_at=item.finished_at,
                outcome=AttemptOutcome(item.outcome) if item.outcome else None,
                error=item.error,
            )
            for item in tries
        ),
    )


def emit(
    db: Database, connection: Connection, job_id: str, events: Iterable[tuple[str, Mapping[str, Any]]]
) -> None:
    """Append events of a job, in the caller's transaction.

    The job's row stays locked until commit, so events become visible in the order of their numbers, without gaps.
    """
    items = list(events)
    if not items:
        return
    last = connection.execute(
        update(jobs)
        .where(jobs.c.id == job_id)
        .values(event_seq=jobs.c.event_seq + len(items))
        .returning(jobs.c.event_seq)
    ).scalar_one()
    now = connection.execute(select(db.now())).scalar_one()
    db.insert(
        connection,
        job_events,
        [
            {
                "job_id": job_id,
                "seq": last - len(items) + 1 + i,
                "at": now,
                "type": kind,
                "data": json_safe(data),
            }
            for i, (kind, data) in enumerate(items)
        ],
    )


def cancelled_error(by: str | None, at: float | None, when: str) -> dict[str, Any]:
    """The error of a job that was cancelled: who asked, at what time, and ``when`` in its life."""
    asked = "" if at is None else f" at {datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
    return JobError(
        "cancelled",
        f"Cancelled by {by or 'somebody'}{asked}, {when}.",
        hint="POST /jobs/{id}/retry makes a new job of it, which goes on from the last checkpoint if there is one.",
    ).as_dict()


def state_event(before: JobState | None, after: JobState, **more: Any) -> tuple[str, dict[str, Any]]:
    """The event that every transition leaves."""
    data = {"from": before, "to": after, **more}
    return "state", {key: value for key, value in data.items() if value is not None}
