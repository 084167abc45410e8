"""Rows to records, and the one way to write an event."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Connection, Row, select, update
from sqlalchemy.sql.elements import ColumnElement

from shared.errors import NotFound, StaleClaim
from shared.jobs import Attempt, AttemptOutcome, Claim, Job, JobError, JobState
from shared.store.database import Database, json_safe
from shared.store.schema import attempts, job_events, jobs, studies, trials


def held_by(claim: Claim) -> ColumnElement[bool]:
    """The fence: the row of the claim's job, as long as nobody else has claimed it and it runs."""
    return (
        (jobs.c.id == claim.job_id) & (jobs.c.state == JobState.RUNNING) & (jobs.c.claim_token == claim.token)
    )


def stale(claim: Claim) -> StaleClaim:
    """The error for a claim that the fence keeps out."""
    return StaleClaim(f"Attempt {claim.attempt} no longer holds job {claim.job_id}.")


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
        parent_id=data["parent_id"],
        project=data["project"],
        priority=data["priority"],
        queue=data["queue"],
        request_id=data["request_id"],
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
    if any(kind == "state" and JobState(data["to"]).terminal for kind, data in items):
        # a part of a study has ended: the study goes on; in the same transaction, so that it is never forgotten
        wake_study(db, connection, select(jobs.c.parent_id).where(jobs.c.id == job_id).scalar_subquery())
        took = select(jobs.c.finished_at - jobs.c.started_at).where(jobs.c.id == job_id).scalar_subquery()
        connection.execute(update(trials).where(trials.c.job_id == job_id).values(seconds=took))


def wake_study(db: Database, connection: Connection, study_id: Any) -> None:
    """Have a study advanced soon, in the caller's transaction; nothing happens if there is no such study."""
    connection.execute(
        update(studies)
        .where(studies.c.job_id == study_id)
        .values(wake_at=db.now(), wakes=studies.c.wakes + 1)
    )


def open_parts(connection: Connection, study_id: str) -> list[str]:
    """Ids of a study's jobs that have not ended."""
    ended = [state for state in JobState if state.terminal]
    query = select(jobs.c.id).where(jobs.c.parent_id == study_id, jobs.c.state.not_in(ended))
    return list(connection.execute(query).scalars())


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
