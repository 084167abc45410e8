"""What workers write about a job: claim, lease, progress, end; and the sweeps that find the lost and the overdue.

Every write but the claim itself names the claim's token and is refused with ``StaleClaim`` when another attempt
has taken over, or the job was ended by a sweep: this is the fence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, case, insert, literal, or_, select, update
from sqlalchemy.sql.elements import ColumnElement

from shared.failure_codes import may_retry, pause_before_retry
from shared.jobs import AttemptOutcome, Claim, Job, JobError, JobState, MetricPoint
from shared.names import new_id
from shared.store.database import Database, json_safe
from shared.store.order import SERVE, WAITING_QUEUES, next_job, running_of
from shared.store.rows import cancelled_error, emit, held_by, read_job, stale, state_event
from shared.store.schema import attempts, job_metrics, jobs, workers

SWEEP_BATCH = 100
CLAIM_TRIES = 20
# a constant in the text of a query, for which the partial indexes of queued jobs can be used
QUEUED = literal(JobState.QUEUED.value, literal_execute=True)


@dataclass(slots=True)
class Report:
    """What a supervisor has to say since its last write. Empty members change nothing."""

    stage: str | None = None
    progress: Mapping[str, Any] | None = None
    metrics: Mapping[str, Any] | None = None  # {"latest": ..., "best": ...}, replaces
    run: Mapping[str, Any] | None = None  # replaces
    points: Sequence[MetricPoint] = ()
    events: list[tuple[str, Mapping[str, Any]]] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Swept:
    """Ids by what a sweep did with them."""

    requeued: list[str]
    ended: list[str]


class _TakenByOthers(Exception):
    """Somebody else took the job, or the last place of its project, between the look and the claim."""


class ClaimStore:
    """The worker's side of the store. All methods are thread-safe, atomic, and may raise ``Unavailable``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def claim(self, job_id: str, worker_id: str, lease_seconds: float) -> tuple[Claim, Job] | None:
        """Take a queued job, by one compare-and-set. None when it is not there to be taken: a duplicate message, a
        retry that is put off, or a job that has waited past its deadline.
        """
        with self._db.write() as tx:
            return self._take(tx, job_id, worker_id, lease_seconds)

    def claim_next(
        self, worker_id: str, queues: Sequence[str], lease_seconds: float
    ) -> tuple[Claim, Job] | None:
        """Take the job that a free slot of this worker should run next (``shared.store.order``). None when nothing may
        be taken: none waits in ``queues``, their projects are at their limits, or the worker is draining.

        What it costs does not depend on how many jobs wait. When there is nothing to take, nothing is written.
        """
        for _ in range(CLAIM_TRIES):
            with self._db.read() as tx:
                draining = select(workers.c.draining).where(workers.c.id == worker_id).scalar_subquery()
                here = tx.execute(select(self._db.now().label("now"), draining.label("draining"))).one()
                best = None if here.draining else next_job(tx, queues, here.now)
            if best is None:
                return None
            with contextlib.suppress(_TakenByOthers), self._db.write() as tx:
                limit = tx.execute(SERVE, {"project": best.project, "now": here.now}).scalar_one()
                if limit is not None and running_of(tx, best.project) >= limit:
                    raise _TakenByOthers
                taken = self._take(tx, best.job_id, worker_id, lease_seconds)
                if taken is None:
                    raise _TakenByOthers
                return taken
        return None  # others took each of them first; they or the sweeper wake somebody for the rest

    def _take(
        self, tx: Connection, job_id: str, worker_id: str, lease_seconds: float
    ) -> tuple[Claim, Job] | None:
        token = new_id("clm")
        now = self._db.now()
        row = tx.execute(
            update(jobs)
            .where(
                jobs.c.id == job_id,
                jobs.c.state == JobState.QUEUED,
                jobs.c.kind != "tune",  # nobody holds a study; see shared.store.studies
                self._due(),
                or_(jobs.c.queued_until.is_(None), jobs.c.queued_until > now),
            )
            .values(
                state=JobState.RUNNING,
                stage="starting",
                attempt=jobs.c.attempt + 1,
                claim_token=token,
                worker_id=worker_id,
                lease_until=now + lease_seconds,
                not_before=None,
                queued_until=None,
                started_at=case((jobs.c.started_at.is_(None), now), else_=jobs.c.started_at),
                updated_at=now,
            )
            .returning(jobs.c.attempt)
        ).one_or_none()
        if row is None:
            return None
        tx.execute(
            insert(attempts).values(job_id=job_id, number=row.attempt, worker_id=worker_id, started_at=now)
        )
        emit(
            self._db,
            tx,
            job_id,
            [state_event(JobState.QUEUED, JobState.RUNNING, attempt=row.attempt, worker=worker_id)],
        )
        return Claim(job_id, token, row.attempt, worker_id), read_job(tx, job_id)

    def renew(self, claim: Claim, lease_seconds: float) -> bool:
        """Extend the lease from now. Returns whether somebody asked to cancel.

        A lease that has run out but was not swept yet is renewed: nobody else has the job.

        Raises:
            StaleClaim: the job is no longer this claim's.
        """
        with self._db.write() as tx:
            values = {"lease_until": self._db.now() + lease_seconds, "updated_at": self._db.now()}
            return self._write(tx, claim, values)

    def cancel_requested(self, claim: Claim) -> bool:
        """Whether somebody asked to cancel; a read, cheap enough for twice a second.

        Raises:
            StaleClaim: the job is no longer this claim's.
        """
        with self._db.read() as tx:
            row = tx.execute(
                select(jobs.c.cancel_requested).where(
                    jobs.c.id == claim.job_id, jobs.c.claim_token == claim.token
                )
            ).one_or_none()
        if row is None:
            raise stale(claim)
        return bool(row.cancel_requested)

    def expire_leases(self, worker_ids: Sequence[str]) -> int:
        """End the leases of workers known to be dead, so that the next sweep need not wait. Returns how many."""
        if not worker_ids:
            return 0
        with self._db.write() as tx:
            now = self._db.now()
            return int(
                tx.execute(
                    update(jobs)
                    .where(jobs.c.state == JobState.RUNNING, jobs.c.worker_id.in_(worker_ids))
                    # a lease that has run out stays: it tells how long the job is known to have run
                    .values(
                        lease_until=case((jobs.c.lease_until < now - 1, jobs.c.lease_until), else_=now - 1)
                    )
                ).rowcount
            )

    def report(self, claim: Claim, report: Report, *, run_dir: str | None = None) -> bool:
        """Record what happened. Returns whether somebody asked to cancel.

        Raises:
            StaleClaim: the job is no longer this claim's; nothing was recorded.
        """
        values: dict[str, Any] = {"updated_at": self._db.now()}
        given = {
            "stage": report.stage,
            "progress": report.progress,
            "metrics": report.metrics,
            "run": report.run,
            "run_dir": run_dir,
        }
        values.update({key: json_safe(value) for key, value in given.items() if value is not None})
        events = list(report.events)
        if report.stage is not None:
            events.insert(0, ("stage", {"stage": report.stage, "attempt": claim.attempt}))
        with self._db.write() as tx:
            asked = self._write(tx, claim, values)
            self._db.upsert(
                tx,
                job_metrics,
                [
                    {
                        "job_id": claim.job_id,
                        "name": point.name[:120],
                        "step": point.step,
                        "epoch": point.epoch,
                        "value": json_safe(point.value),
                        "at": point.at,
                    }
                    for point in _last_of_each(report.points)
                ],
            )
            emit(self._db, tx, claim.job_id, events)
            return asked

    def finish(
        self,
        claim: Claim,
        state: JobState,
        *,
        error: JobError | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        """End the job: ``succeeded``, ``failed`` or ``cancelled``; this last one says who asked, if ``error`` does not.

        Raises:
            StaleClaim: the job is no longer this claim's.
        """
        if not state.terminal:
            raise ValueError(f"{state} is no end")
        details = error.as_dict() if error else None
        with self._db.write() as tx:
            if state is JobState.CANCELLED and details is None:
                details = self._cancelled(tx, claim.job_id)
            values = {
                "state": state,
                "stage": None,
                "finished_at": self._db.now(),
                "updated_at": self._db.now(),
                "error": details,
                "claim_token": None,
                "lease_until": None,
            }
            if result is not None:
                values["result"] = json_safe(result)
            self._write(tx, claim, values)
            self._end_attempt(tx, claim.job_id, claim.attempt, AttemptOutcome(state.value), details)
            event = state_event(JobState.RUNNING, state, error=details, result=result)
            emit(self._db, tx, claim.job_id, [event])

    def release(
        self, claim: Claim, outcome: AttemptOutcome, *, error: JobError | None = None, counts: bool
    ) -> JobState:
        """Give a running job back to the queue, to go on from its last checkpoint.

        With ``counts``, the attempt counts towards ``max_attempts``, and the last one ends the job as ``failed``
        instead; so does an ``error`` after which a retry can't help (``shared.failure_codes``), or that the job's
        ``retry.on`` leaves out. Some retries are put off for a while. A job that was asked to cancel ends as
        ``cancelled``. Returns the state the job is in now.

        Raises:
            StaleClaim: the job is no longer this claim's.
        """
        with self._db.write() as tx:
            values: dict[str, Any] = {"updated_at": self._db.now()}
            if counts:
                values["losses"] = jobs.c.losses + 1
            self._write(tx, claim, values)
            return self._give_back(tx, claim.job_id, claim.attempt, outcome, error)

    def sweep(self) -> Swept:
        """Find running jobs whose lease has ended, and put them back on their way, or end them.

        Any number of processes may sweep at once; each job is handled by one.
        """
        with self._db.read() as tx:
            ids = list(
                tx.execute(
                    select(jobs.c.id)
                    .where(self._lease_ended())
                    .order_by(jobs.c.lease_until)
                    .limit(SWEEP_BATCH)
                ).scalars()
            )
        swept = Swept([], [])
        for job_id in ids:
            with self._db.write() as tx:
                row = tx.execute(
                    update(jobs)
                    .where(jobs.c.id == job_id, self._lease_ended())
                    .values(losses=jobs.c.losses + 1, updated_at=self._db.now())
                    .returning(jobs.c.attempt, jobs.c.worker_id, jobs.c.lease_until)
                ).one_or_none()
                if row is None:
                    continue  # renewed or swept by another since
                error = JobError(
                    "worker_lost",
                    f"The worker {row.worker_id} was not heard of for a whole lease.",
                    hint="It was killed, lost its machine, or lost the database. See its log.",
                )
                # nobody knows how long it went on after that
                end = self._db.now() if row.lease_until is None else row.lease_until
                state = self._give_back(tx, job_id, row.attempt, AttemptOutcome.LOST, error, end)
            (swept.requeued if state is JobState.QUEUED else swept.ended).append(job_id)
        return swept

    def end_overdue(self) -> list[str]:
        """Fail the jobs that have been queued for longer than their ``deadline.queue_seconds``. Returns their ids.

        Any number of processes may do so at once.
        """
        overdue = (jobs.c.state == JobState.QUEUED) & (jobs.c.queued_until <= self._db.now())
        with self._db.read() as tx:
            query = select(jobs.c.id).where(overdue).order_by(jobs.c.queued_until).limit(SWEEP_BATCH)
            ids = list(tx.execute(query).scalars())
        ended = []
        for job_id in ids:
            with self._db.write() as tx:
                job = read_job(tx, job_id)
                wait = _option(job.spec, "deadline", "queue_seconds")
                error = JobError(
                    "deadline",
                    f"No worker took the job up within the {wait:g} s that deadline.queue_seconds allows.",
                    hint="Start more workers or raise the deadline; GET /workers shows who is there and busy.",
                ).as_dict()
                now = self._db.now()
                values = {"state": JobState.FAILED, "finished_at": now, "updated_at": now, "error": error}
                if tx.execute(update(jobs).where(jobs.c.id == job_id, overdue).values(**values)).rowcount:
                    emit(self._db, tx, job_id, [state_event(JobState.QUEUED, JobState.FAILED, error=error)])
                    ended.append(job_id)
        return ended

    def wake_put_off(self) -> list[str]:
        """Make the jobs claimable whose pause before a retry is over; returns their ids, to be sent."""
        over = (jobs.c.state == QUEUED) & (jobs.c.not_before <= self._db.now())
        with self._db.read() as tx:
            ids = list(tx.execute(select(jobs.c.id).where(over).limit(SWEEP_BATCH)).scalars())
        if ids:
            with self._db.write() as tx:
                tx.execute(update(jobs).where(jobs.c.id.in_(ids), over).values(not_before=None))
        return ids

    def queues_of(self, job_ids: Sequence[str]) -> dict[str, str]:
        """The queue of each job, by id."""
        with self._db.read() as tx:
            found = tx.execute(select(jobs.c.id, jobs.c.queue).where(jobs.c.id.in_(job_ids)))
            known = {row.id: row.queue for row in found}
        return {job_id: known[job_id] for job_id in job_ids if job_id in known}

    def may_be_claimed(self, queue: str) -> bool:
        """Whether a free slot that serves ``queue`` would find a job there."""
        with self._db.read() as tx:
            return next_job(tx, [queue], tx.execute(select(self._db.now())).scalar_one()) is not None

    def unsent(self, *, older_than_seconds: float, limit: int = SWEEP_BATCH) -> list[str]:
        """Ids of queued jobs that are not known to be on the queue, oldest first."""
        with self._db.read() as tx:
            query = (
                select(jobs.c.id)
                .where(
                    jobs.c.state == QUEUED,
                    jobs.c.sent_at.is_(None),
                    self._due(),
                    jobs.c.updated_at < self._db.now() - older_than_seconds,
                )
                .order_by(jobs.c.id)
                .limit(limit)
            )
            return list(tx.execute(query).scalars())

    def sent_long_ago(self, *, seconds: float, limit: int, queue: str | None = None) -> list[str]:
        """Ids of the oldest queued jobs, of one queue if given, whose message was sent ``seconds`` ago or more: it may
        be lost.
        """
        query = (
            select(jobs.c.id)
            .where(jobs.c.state == QUEUED, jobs.c.not_before.is_(None))
            .where(jobs.c.sent_at < self._db.now() - seconds)
            .order_by(jobs.c.sent_at, jobs.c.id)
            .limit(limit)
        )
        if queue is not None:
            query = query.where(jobs.c.queue == queue)
        with self._db.read() as tx:
            return list(tx.execute(query).scalars())

    def waiting_queues(self) -> list[str]:
        """Names of the queues in which jobs wait that may be claimed now."""
        with self._db.read() as tx:
            return [str(name) for name in tx.execute(WAITING_QUEUES).scalars()]

    def _due(self) -> ColumnElement[bool]:
        return or_(jobs.c.not_before.is_(None), jobs.c.not_before <= self._db.now())

    def _lease_ended(self) -> ColumnElement[bool]:
        ended = or_(jobs.c.lease_until < self._db.now(), jobs.c.lease_until.is_(None))
        return (jobs.c.state == JobState.RUNNING) & (jobs.c.kind != "tune") & ended

    def _write(self, tx: Connection, claim: Claim, values: Mapping[str, Any]) -> bool:
        row = tx.execute(
            update(jobs).where(held_by(claim)).values(**values).returning(jobs.c.cancel_requested)
        ).one_or_none()
        if row is None:
            raise stale(claim)
        return bool(row.cancel_requested)

    def _give_back(
        self,
        tx: Connection,
        job_id: str,
        attempt: int,
        outcome: AttemptOutcome,
        error: JobError | None,
        ended_at: Any = None,
    ) -> JobState:
        row = tx.execute(
            select(jobs.c.losses, jobs.c.max_attempts, jobs.c.cancel_requested, jobs.c.spec).where(
                jobs.c.id == job_id
            )
        ).one()
        details = error.as_dict() if error else None
        values: dict[str, Any] = {"claim_token": None, "lease_until": None, "stage": None, "sent_at": None}
        last_word = self._last_word(tx, job_id, attempt, row, error)
        pause = pause_before_retry(error.code, failures=row.losses) if error else 0.0
        if row.cancel_requested:
            state = JobState.CANCELLED
            values |= {"finished_at": self._db.now(), "error": self._cancelled(tx, job_id)}
        elif last_word is not None:
            state = JobState.FAILED
            values |= {"finished_at": self._db.now(), "error": last_word}
        else:
            state = JobState.QUEUED
            wait = _option(row.spec, "deadline", "queue_seconds")
            values |= {
                "worker_id": None,
                "not_before": self._db.now() + pause if pause else None,
                "queued_until": self._db.now() + pause + wait if wait else None,
            }
        tx.execute(update(jobs).where(jobs.c.id == job_id).values(state=state, **values))
        self._end_attempt(tx, job_id, attempt, outcome, details, ended_at)
        more = {"retry_in_seconds": pause} if pause and state is JobState.QUEUED else {}
        event = state_event(JobState.RUNNING, state, attempt=attempt, outcome=outcome, error=details, **more)
        emit(self._db, tx, job_id, [event])
        return state

    def _last_word(
        self, tx: Connection, job_id: str, attempt: int, row: Any, error: JobError | None
    ) -> dict[str, Any] | None:
        """The job's error if this attempt was its last, else None."""
        if error is None:
            return None
        before = tx.execute(
            select(attempts.c.error).where(attempts.c.job_id == job_id, attempts.c.number != attempt)
        ).scalars()
        earlier = [known["code"] for known in before if known]
        details = error.as_dict()
        if not may_retry(error.code, earlier=earlier, on=_option(row.spec, "retry", "on")):
            if error.code in earlier:
                details["message"] = f"Attempt {row.losses} ended like one before. {error.message}"
        elif row.losses >= row.max_attempts:
            details["message"] = f"Attempt {row.losses} of {row.max_attempts} was the last. {error.message}"
        else:
            return None
        return details

    def _cancelled(self, tx: Connection, job_id: str) -> dict[str, Any]:
        row = tx.execute(
            select(jobs.c.cancel_asked_by, jobs.c.cancel_asked_at, jobs.c.attempt).where(jobs.c.id == job_id)
        ).one()
        return cancelled_error(row.cancel_asked_by, row.cancel_asked_at, f"in attempt {row.attempt}")

    def _end_attempt(
        self,
        tx: Connection,
        job_id: str,
        number: int,
        outcome: AttemptOutcome,
        error: Mapping[str, Any] | None,
        ended_at: Any = None,
    ) -> None:
        tx.execute(
            update(attempts)
            .where(attempts.c.job_id == job_id, attempts.c.number == number)
            .values(
                finished_at=self._db.now() if ended_at is None else ended_at, outcome=outcome, error=error
            )
        )


def _option(spec: Mapping[str, Any], part: str, name: str) -> Any:
    # a job that an older version stored lacks the options it did not know
    return (spec.get(part) or {}).get(name)


def _last_of_each(points: Iterable[MetricPoint]) -> list[MetricPoint]:
    # one statement can't replace the same row twice
    return list({(point.name[:120], point.step): point for point in points}.values())
