"""Jobs as clients see them: create, read, list, ask to cancel. What workers write is in ``claims``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, Select, delete, func, insert, or_, select, update

from shared.errors import Conflict, IdempotencyConflict
from shared.jobs import Job, JobEvent, JobState, MetricPoint, Page
from shared.names import new_id
from shared.specs import JobSpec
from shared.store.database import Database
from shared.store.new_jobs import insert_job
from shared.store.rows import cancelled_error, emit, job_from, open_parts, read_job, state_event, wake_study
from shared.store.schema import idempotency_keys, job_events, job_labels, job_metrics, jobs

IDEMPOTENCY_DAYS = 7


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one metric in step order, thinned; ``total`` counts those stored."""

    name: str
    points: list[MetricPoint]
    total: int


class JobStore:
    """Create and read jobs. All methods are thread-safe and atomic, and may raise ``Unavailable``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def create(
        self,
        spec: JobSpec,
        *,
        idempotency_key: str | None = None,
        body_sha256: str = "",
        retry_of: str | None = None,
        resume_from: str | None = None,
        run: dict[str, Any] | None = None,
        request_id: str | None = None,
    ) -> tuple[Job, bool]:
        """Store a new job as ``queued``. Returns it and True; or the earlier job of the same key, and False.

        The job is not on the queue yet: send its id after this returns, then call ``mark_sent``. A sender that
        dies in between loses nothing, since the sweeper sends what was not sent. ``run`` is what is known of the
        run already; the worker adds to it.

        Raises:
            IdempotencyConflict: the key was used with another body.
        """
        job_id = new_id("job")
        with self._db.write() as tx:
            if idempotency_key is not None:
                known = self._claim_key(tx, idempotency_key, body_sha256)
                if known is not None:
                    return read_job(tx, known), False
            insert_job(
                self._db,
                tx,
                job_id,
                spec,
                retry_of=retry_of,
                resume_from=resume_from,
                run=run,
                request_id=request_id,
            )
            if idempotency_key is not None:
                tx.execute(
                    insert(idempotency_keys).values(
                        key=idempotency_key, body_sha256=body_sha256, job_id=job_id, created_at=self._db.now()
                    )
                )
            return read_job(tx, job_id), True

    def earlier(self, idempotency_key: str, body_sha256: str) -> Job | None:
        """The job that this key made before, if any: a repeated request is answered by reading alone.

        Raises:
            IdempotencyConflict: the key was used with another body.
        """
        with self._db.read() as tx:
            row = tx.execute(
                select(idempotency_keys).where(
                    idempotency_keys.c.key == idempotency_key,
                    idempotency_keys.c.created_at >= self._db.now() - IDEMPOTENCY_DAYS * 86_400,
                )
            ).one_or_none()
            return None if row is None else read_job(tx, _same_body(row, body_sha256))

    def _claim_key(self, tx: Any, key: str, body_sha256: str) -> str | None:
        tx.execute(
            delete(idempotency_keys).where(
                idempotency_keys.c.created_at < self._db.now() - IDEMPOTENCY_DAYS * 86_400
            )
        )
        if not self._db.is_sqlite:
            # two requests with one new key: the second waits here until the first has committed
            tx.execute(select(func.pg_advisory_xact_lock(func.hashtext(key))))
        row = tx.execute(select(idempotency_keys).where(idempotency_keys.c.key == key)).one_or_none()
        return None if row is None else _same_body(row, body_sha256)

    def mark_sent(self, job_id: str) -> None:
        """Remember that the id is on the queue."""
        with self._db.write() as tx:
            tx.execute(
                update(jobs)
                .where(jobs.c.id == job_id, jobs.c.state == JobState.QUEUED)
                .values(sent_at=self._db.now())
            )

    def get(self, job_id: str) -> Job:
        """One job, with its attempts.

        Raises:
            NotFound: no such job.
        """
        with self._db.read() as tx:
            return read_job(tx, job_id)

    def pulses(self, job_ids: Sequence[str]) -> dict[str, tuple[int, float]]:
        """(number of the last event, time of the last write) by id: tells cheaply which of many jobs have changed.

        Unknown ids are left out.
        """
        found: dict[str, tuple[int, float]] = {}
        with self._db.read() as tx:
            for start in range(0, len(job_ids), 500):
                query = select(jobs.c.id, jobs.c.event_seq, jobs.c.updated_at).where(
                    jobs.c.id.in_(job_ids[start : start + 500])
                )
                found.update((row.id, (row.event_seq, row.updated_at)) for row in tx.execute(query))
        return found

    def find(
        self,
        *,
        state: JobState | None = None,
        kind: str | None = None,
        model: str | None = None,
        label: str | None = None,
        parent: str | None = None,
        after: str | None = None,
        limit: int = 50,
    ) -> Page[Job]:
        """Newest first, without attempts. ``label`` is ``key`` or ``key=value``; ``after`` is the last id seen.

        Parts of studies are left out, unless ``parent`` names their study.
        """
        query: Select[Any] = select(jobs).order_by(jobs.c.id.desc()).limit(limit + 1)
        query = query.where(jobs.c.parent_id == parent)  # IS NULL for None
        if state is not None:
            query = query.where(jobs.c.state == state)
        if kind is not None:
            query = query.where(jobs.c.kind == kind)
        if model is not None:
            query = query.where(jobs.c.model == model)
        if label is not None:
            key, equals, value = label.partition("=")
            matching = select(job_labels.c.job_id).where(job_labels.c.key == key)
            if equals:
                matching = matching.where(job_labels.c.value == value)
            query = query.where(jobs.c.id.in_(matching))
        if after is not None:
            query = query.where(jobs.c.id < after)
        with self._db.read() as tx:
            rows = tx.execute(query).all()
        return Page([job_from(row) for row in rows[:limit]], has_more=len(rows) > limit)

    def count_by_state(self) -> dict[JobState, int]:
        """How many jobs are in each state."""
        with self._db.read() as tx:
            rows = tx.execute(select(jobs.c.state, func.count()).group_by(jobs.c.state)).all()
        counts = dict.fromkeys(JobState, 0)
        counts.update({JobState(state): number for state, number in rows})
        return counts

    def set_priority(self, job_id: str, priority: int) -> Job:
        """Change the place of a job that has not ended; of a study, that of its trials too.

        Raises:
            NotFound: no such job.
            Conflict: it has ended.
        """
        open_ones = jobs.c.state.in_((JobState.QUEUED, JobState.RUNNING))
        with self._db.write() as tx:
            changed = tx.execute(
                update(jobs)
                .where(jobs.c.id == job_id, open_ones)
                .values(priority=priority, updated_at=self._db.now())
            ).rowcount
            if not changed:
                job = read_job(tx, job_id)
                raise Conflict(
                    f"The job {job_id} has ended: {job.state}.",
                    code="job_ended",
                    hint="Priorities are for jobs that wait or run.",
                )
            tx.execute(update(jobs).where(jobs.c.parent_id == job_id, open_ones).values(priority=priority))
            emit(self._db, tx, job_id, [("priority", {"priority": priority})])
            return read_job(tx, job_id)

    def request_cancel(self, job_id: str, by: str | None = None) -> Job:
        """Ask for the job's end. A queued job is cancelled at once, a running one by its supervisor; of a study, all
        its parts are asked too. Asking again, or asking a job that has ended, changes nothing. ``by`` says who asks, at
        most 200 characters.

        Raises:
            NotFound: no such job.
        """
        with self._db.write() as tx:
            now = tx.execute(select(self._db.now())).scalar_one()
            by = (by or "somebody")[:200]
            error = cancelled_error(by, now, "before a worker took it up")
            cancelled = tx.execute(
                update(jobs)
                .where(jobs.c.id == job_id, jobs.c.state == JobState.QUEUED)
                .values(
                    state=JobState.CANCELLED,
                    cancel_requested=True,
                    cancel_asked_at=now,
                    cancel_asked_by=by,
                    error=error,
                    stage=None,
                    finished_at=now,
                    updated_at=now,
                )
            ).rowcount
            if cancelled:
                emit(self._db, tx, job_id, [state_event(JobState.QUEUED, JobState.CANCELLED, error=error)])
            else:
                asked = tx.execute(
                    update(jobs)
                    .where(
                        jobs.c.id == job_id,
                        jobs.c.state == JobState.RUNNING,
                        jobs.c.cancel_requested.is_(False),
                    )
                    .values(cancel_requested=True, cancel_asked_at=now, cancel_asked_by=by, updated_at=now)
                ).rowcount
                if asked:
                    emit(self._db, tx, job_id, [("cancel_requested", {"by": by})])
                    wake_study(self._db, tx, job_id)
            job = read_job(tx, job_id)
            parts = open_parts(tx, job_id) if job.kind == "tune" else []
        for part in parts:
            self.request_cancel(part, by)
        return job

    def events(self, job_id: str, *, after: int = 0, limit: int = 200) -> Page[JobEvent]:
        """Events with a number above ``after``, oldest first. Unknown jobs have none."""
        query = (
            select(job_events)
            .where(job_events.c.job_id == job_id, job_events.c.seq > after)
            .order_by(job_events.c.seq)
            .limit(limit + 1)
        )
        with self._db.read() as tx:
            rows = tx.execute(query).all()
        items = [JobEvent(row.job_id, row.seq, row.at, row.type, row.data) for row in rows[:limit]]
        return Page(items, has_more=len(rows) > limit)

    def metrics(self, job_id: str, *, names: list[str] | None = None, max_points: int = 1000) -> list[Series]:
        """The job's series by name. A series longer than ``max_points`` is thinned evenly, ends kept."""
        points = job_metrics
        chosen = points.c.job_id == job_id
        if names:
            chosen = chosen & points.c.name.in_(names)
        ranked = (
            select(
                points,
                func.row_number().over(partition_by=points.c.name, order_by=points.c.step).label("n"),
                func.count().over(partition_by=points.c.name).label("total"),
            )
            .where(chosen)
            .subquery()
        )
        stride = (ranked.c.total + max_points - 1) / max_points  # integers: SQL rounds down
        if not self._db.is_sqlite:
            stride = func.div(ranked.c.total + max_points - 1, max_points)
        query = (
            select(ranked)
            .where(or_((ranked.c.n - 1) % stride == 0, ranked.c.n == ranked.c.total))
            .order_by(ranked.c.name, ranked.c.step)
        )
        with self._db.read() as tx:
            rows = tx.execute(query).all()
        series: dict[str, Series] = {}
        for row in rows:
            one = series.setdefault(row.name, Series(row.name, [], row.total))
            one.points.append(MetricPoint(row.name, row.step, row.epoch, row.value, row.at))
        return list(series.values())


def _same_body(row: Row[Any], body_sha256: str) -> str:
    if row.body_sha256 != body_sha256:
        raise IdempotencyConflict(
            f"The Idempotency-Key {row.key[:80]!r} was used with another body, for job {row.job_id}.",
            hint="Send a new key for a new job, or the same body to get the same job.",
        )
    return str(row.job_id)
