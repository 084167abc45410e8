"""Studies: who may advance one, what the optimiser asked for and was told, and what is shown of it.

A study is advanced by whoever takes its turn: a lease of some seconds with a fencing token. A trial's row and its
train job are made in one transaction, and a trial is told once, so that a worker killed at any moment leaves nothing
to be put right. Locks are taken in one order everywhere: the tune job's row, the study's, the trials'.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, case, insert, or_, select, update

from shared.errors import NotFound, StaleClaim
from shared.jobs import Job, JobError, JobState, MetricPoint
from shared.names import new_id
from shared.specs import ExportJob, TrainJob
from shared.store.database import Database, json_safe
from shared.store.new_jobs import insert_job
from shared.store.rows import cancelled_error, emit, read_job, state_event, wake_study
from shared.store.schema import job_metrics, jobs, studies, trials
from shared.trials import Study, Told, Trial, TrialSource, TrialStatus, Turn


@dataclass(frozen=True, slots=True)
class NewTrial:
    """A trial that the optimiser asks for. ``error``: why its job fails before it begins."""

    number: int
    source: TrialSource
    params: Mapping[str, Any]
    attrs: Mapping[str, Any]
    spec: TrainJob
    run: Mapping[str, Any]
    run_dir: str
    error: JobError | None = None


class StudyStore:
    """All methods are thread-safe and atomic, and may raise ``Unavailable``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    # --- reading ---

    def get(self, study_id: str) -> Study:
        """One study.

        Raises:
            NotFound: there is no such study.
        """
        with self._db.read() as tx:
            return _study(tx, study_id)

    def trial(self, study_id: str, number: int) -> Trial:
        """One trial.

        Raises:
            NotFound: there is no such trial.
        """
        query = with_jobs().where(trials.c.study_id == study_id, trials.c.number == number)
        with self._db.read() as tx:
            row = tx.execute(query).one_or_none()
        if row is None:
            raise NotFound(f"The study {study_id} has no trial {number}.", code="trial_not_found")
        return trial_from(row)

    def trial_of(self, job_id: str) -> Trial | None:
        """The trial that a train job is, in the study that began it; None for other jobs."""
        query = with_jobs().where(trials.c.job_id == job_id, jobs.c.parent_id == trials.c.study_id)
        with self._db.read() as tx:
            row = tx.execute(query).one_or_none()
        return None if row is None else trial_from(row)

    def since(self, study_id: str, revision: int = -1) -> tuple[Study, list[Trial]]:
        """The study, and its trials that have changed after ``revision``, by number; without their jobs' facts.

        Raises:
            NotFound: there is no such study.
        """
        query = (
            with_jobs()
            .where(trials.c.study_id == study_id, trials.c.revision > revision)
            .order_by(trials.c.number)
        )
        with self._db.read() as tx:
            return _study(tx, study_id), [trial_from(row) for row in tx.execute(query)]

    def open(self, study_id: str) -> list[tuple[Trial, Job]]:
        """Trials that have not been told the optimiser, each with its job, by number."""
        query = (
            with_jobs()
            .where(trials.c.study_id == study_id, trials.c.status.is_(None))
            .order_by(trials.c.number)
        )
        with self._db.read() as tx:
            return [(trial_from(row), read_job(tx, row.job_id)) for row in tx.execute(query).all()]

    def values_by_epoch(self, job_id: str, metric: str) -> list[tuple[int, float]]:
        """(epoch, value) of a metric at the epochs' ends, as far as they are finite."""
        points = job_metrics
        query = (
            select(points.c.epoch, points.c.value)
            .where(points.c.job_id == job_id, points.c.name == metric, points.c.value.is_not(None))
            .order_by(points.c.step)
        )
        with self._db.read() as tx:
            return [(row.epoch, row.value) for row in tx.execute(query)]

    def points(self, job_ids: Sequence[str], metric: str) -> dict[str, list[MetricPoint]]:
        """A metric's points of many jobs, by job, in step order."""
        found: dict[str, list[MetricPoint]] = {job_id: [] for job_id in job_ids}
        with self._db.read() as tx:
            for start in range(0, len(job_ids), 500):
                query = (
                    select(job_metrics)
                    .where(
                        job_metrics.c.job_id.in_(job_ids[start : start + 500]), job_metrics.c.name == metric
                    )
                    .order_by(job_metrics.c.step)
                )
                for row in tx.execute(query):
                    found[row.job_id].append(MetricPoint(row.name, row.step, row.epoch, row.value, row.at))
        return found

    # --- turns ---

    def wake(self, study_id: str) -> None:
        """Have the study advanced soon. Unknown ids are left alone."""
        with self._db.write() as tx:
            wake_study(self._db, tx, study_id)

    def due(self, *, limit: int = 20) -> list[str]:
        """Ids of studies that are to be advanced now, and that nobody is at."""
        now = self._db.now()
        query = (
            select(studies.c.job_id)
            .where(studies.c.wake_at <= now, or_(studies.c.turn_until.is_(None), studies.c.turn_until < now))
            .order_by(studies.c.wake_at)
            .limit(limit)
        )
        with self._db.read() as tx:
            return list(tx.execute(query).scalars())

    def take_turn(self, study_id: str, lease_seconds: float) -> Turn | None:
        """Take the turn by one compare-and-set, if it is due and nobody has it; else None."""
        token = new_id("turn")
        with self._db.write() as tx:
            now = self._db.now()
            row = tx.execute(
                update(studies)
                .where(
                    studies.c.job_id == study_id,
                    studies.c.wake_at <= now,
                    or_(studies.c.turn_until.is_(None), studies.c.turn_until < now),
                )
                .values(turn_token=token, turn_until=now + lease_seconds)
                .returning(studies.c.wakes, now.label("now"))
            ).one_or_none()
        return None if row is None else Turn(study_id, token, row.wakes, row.now)

    def end_turn(self, turn: Turn, *, wake_in: float | None) -> bool:
        """Give the turn back. The study is due again in ``wake_in`` seconds (None: when it is woken), or at once if it
        was woken since the turn began. Returns whether it was.

        Raises:
            StaleClaim: the turn is somebody else's by now.
        """
        with self._db.write() as tx:
            later = None if wake_in is None else self._db.now() + wake_in
            row = tx.execute(
                update(studies)
                .where(studies.c.job_id == turn.study_id, studies.c.turn_token == turn.token)
                .values(
                    turn_token=None,
                    turn_until=None,
                    wake_at=case((studies.c.wakes == turn.wakes, later), else_=self._db.now()),
                )
                .returning(studies.c.wakes)
            ).one_or_none()
        if row is None:
            raise _stale(turn)
        return bool(row.wakes != turn.wakes)

    # --- writes of whoever has the turn ---

    def begin(self, turn: Turn, run_dir: str) -> None:
        """Have a queued study run. No worker holds it from then on; it has neither lease nor attempts.

        Raises:
            StaleClaim: the turn is somebody else's by now.
        """
        with self._turn(turn) as tx:
            now = self._db.now()
            begun = tx.execute(
                update(jobs)
                .where(jobs.c.id == turn.study_id, jobs.c.state == JobState.QUEUED)
                .values(
                    state=JobState.RUNNING,
                    stage="tuning",
                    started_at=now,
                    updated_at=now,
                    queued_until=None,
                    run_dir=run_dir,
                )
            ).rowcount
            if begun:
                event = state_event(JobState.QUEUED, JobState.RUNNING)
                emit(self._db, tx, turn.study_id, [event, ("stage", {"stage": "tuning"})])

    def inherit(
        self, turn: Turn, rows: Sequence[Trial], *, best: int | None, attrs: Mapping[str, Any]
    ) -> None:
        """Take over ended trials of another study; they keep their jobs, and are numbered anew from 0. Only before the
        first trial is asked for; done once. ``best`` is the best one's new number, ``attrs``
        what the optimiser remembers of the study.

        Raises:
            StaleClaim: the turn is somebody else's by now.
        """
        with self._turn(turn) as tx:
            known = _study(tx, turn.study_id)
            if known.inherited or known.asked or not rows:
                return
            now = tx.execute(select(self._db.now())).scalar_one()
            self._db.insert(
                tx,
                trials,
                [
                    {
                        "study_id": turn.study_id,
                        "number": number,
                        "job_id": row.job_id,
                        "source": TrialSource.INHERITED,
                        "params": row.params,
                        "status": row.status,
                        "values": row.values,
                        "value": row.values[0] if row.values else None,
                        "seconds": row.finished_at - row.started_at
                        if row.finished_at and row.started_at
                        else None,
                        "intermediate": row.intermediate,
                        "attrs": row.attrs,
                        "asked_at": row.asked_at,
                        "told_at": row.told_at or now,
                        "revision": known.revision + 1,
                    }
                    for number, row in enumerate(rows)
                ],
            )
            self._change(tx, turn, inherited=len(rows), best=best, attrs=attrs, revision=known.revision + 1)

    def record(
        self,
        turn: Turn,
        *,
        told: Sequence[Told] = (),
        best: int | None = None,
        wanted: Sequence[NewTrial] = (),
        attrs: Mapping[str, Any] | None = None,
        shown: Callable[[Study], tuple[Mapping[str, Any], Mapping[str, Any]]] | None = None,
    ) -> list[str]:
        """All that a step has to say, in one transaction: how trials ended, which ones are next, what the job shows.

        A trial that has been told already is left as it is. Each of ``wanted`` becomes a row and a train job in the
        state ``queued``, or ``failed`` if it has an error; returns these jobs' ids, to be sent after that. A study that
        is to end begins none.

        Args:
            best: the number of the best trial now.
            wanted: numbered on from the last one.
            attrs: what the optimiser remembers of the study now; None: unchanged.
            shown: (progress, metrics) of the tune job, for the study as it is then.

        Raises:
            StaleClaim: the turn is somebody else's by now; nothing was recorded.
        """
        with self._turn(turn) as tx:
            known = _study(tx, turn.study_id)
            events: list[tuple[str, Mapping[str, Any]]] = []
            changes: dict[str, Any] = {"best": best} if told else {}
            for item in told:
                if self._tell(tx, turn, known, item):
                    name = item.status.value
                    changes[name] = changes.get(name, getattr(known, name)) + 1
                    events.append(
                        ("trial_ended", {"number": item.number, "status": name, "values": item.values})
                    )
            ids: list[str] = []
            if wanted and known.state is JobState.RUNNING and not known.cancel_requested:
                if wanted[0].number != known.inherited + known.asked:
                    raise _stale(turn)
                ids = [self._begin_trial(tx, turn, known, item) for item in wanted]
                changes["asked"] = known.asked + len(wanted)
                if attrs is not None:
                    changes["attrs"] = json_safe(attrs)
                events += [
                    ("trial_asked", {"number": item.number, "job": job_id, "params": dict(item.params)})
                    for job_id, item in zip(ids, wanted, strict=True)
                ]
            if changes:
                changes["revision"] = known.revision + 1
                self._change(tx, turn, **changes)
            if shown is not None:
                progress, metrics = shown(_study(tx, turn.study_id))
                tx.execute(
                    update(jobs)
                    .where(jobs.c.id == turn.study_id, jobs.c.state == JobState.RUNNING)
                    .values(
                        progress=json_safe(progress), metrics=json_safe(metrics), updated_at=self._db.now()
                    )
                )
            emit(self._db, tx, turn.study_id, events)
            return ids

    def _tell(self, tx: Connection, turn: Turn, known: Study, told: Told) -> bool:
        values: dict[str, Any] = {
            "status": told.status,
            "values": told.values,
            "value": told.values[0] if told.values else None,
            "intermediate": [list(pair) for pair in told.intermediate],
            "told_at": self._db.now(),
            "revision": known.revision + 1,
        }
        statement = (
            update(trials)
            .where(
                trials.c.study_id == turn.study_id,
                trials.c.number == told.number,
                trials.c.status.is_(None),
            )
            .values(**values)
        )
        return bool(tx.execute(statement).rowcount)

    def _begin_trial(self, tx: Connection, turn: Turn, known: Study, item: NewTrial) -> str:
        job_id = new_id("job")
        insert_job(
            self._db,
            tx,
            job_id,
            item.spec,
            parent_id=turn.study_id,
            run=dict(item.run),
            run_dir=f"{item.run_dir}-{job_id}",  # so that a trial is found among runs by its job
        )
        tx.execute(
            insert(trials).values(
                study_id=turn.study_id,
                number=item.number,
                job_id=job_id,
                source=item.source,
                params=dict(item.params),
                attrs=json_safe(item.attrs),
                asked_at=self._db.now(),
                revision=known.revision + 1,
            )
        )
        if item.error is not None:
            self._fail_unbegun(tx, job_id, item.error)
        return job_id

    def _fail_unbegun(self, tx: Connection, job_id: str, error: JobError) -> None:
        now = self._db.now()
        tx.execute(
            update(jobs)
            .where(jobs.c.id == job_id)
            .values(
                state=JobState.FAILED,
                finished_at=now,
                updated_at=now,
                queued_until=None,
                error=error.as_dict(),
            )
        )
        emit(self._db, tx, job_id, [state_event(JobState.QUEUED, JobState.FAILED, error=error.as_dict())])

    def publish(self, turn: Turn, spec: ExportJob) -> str:
        """Store the job that publishes the best trial, once; returns its id, to be sent after that.

        Raises:
            StaleClaim: the turn is somebody else's by now; nothing was stored.
        """
        with self._turn(turn) as tx:
            known = _study(tx, turn.study_id)
            if known.publisher is not None:
                return known.publisher
            job_id = new_id("job")
            insert_job(self._db, tx, job_id, spec, parent_id=turn.study_id)
            self._change(tx, turn, publisher=job_id)
            tx.execute(update(jobs).where(jobs.c.id == turn.study_id).values(stage="publishing"))
            emit(self._db, tx, turn.study_id, [("stage", {"stage": "publishing"})])
            return job_id

    def finish(
        self,
        turn: Turn,
        state: JobState,
        *,
        error: JobError | None = None,
        result: Mapping[str, Any] | None = None,
    ) -> None:
        """End the tune job. ``cancelled`` says who asked, if ``error`` does not.

        Raises:
            StaleClaim: the turn is somebody else's by now, or the job has ended.
        """
        with self._turn(turn) as tx:
            row = tx.execute(
                select(jobs.c.state, jobs.c.cancel_asked_by, jobs.c.cancel_asked_at).where(
                    jobs.c.id == turn.study_id
                )
            ).one()
            before = JobState(row.state)
            if before.terminal:
                raise _stale(turn)
            details = error.as_dict() if error else None
            if state is JobState.CANCELLED and details is None:
                details = cancelled_error(row.cancel_asked_by, row.cancel_asked_at, "with its trials")
            now = self._db.now()
            tx.execute(
                update(jobs)
                .where(jobs.c.id == turn.study_id)
                .values(
                    state=state,
                    stage=None,
                    finished_at=now,
                    updated_at=now,
                    error=details,
                    result=json_safe(result) if result is not None else None,
                )
            )
            event = state_event(before, state, error=details, result=json_safe(result))
            emit(self._db, tx, turn.study_id, [event])

    # --- pruning, by the supervisor of a trial ---

    def note_pruning(
        self, study_id: str, number: int, *, attrs: Mapping[str, Any], stop_epoch: int | None
    ) -> None:
        """Keep what the pruner remembers of a trial, and whether it is to end. An ended one stays as it is."""
        with self._db.write() as tx:
            revision = tx.execute(
                update(studies)
                .where(studies.c.job_id == study_id)
                .values(revision=studies.c.revision + 1)
                .returning(studies.c.revision)
            ).scalar_one_or_none()
            if revision is None:
                return
            values = {"attrs": json_safe(attrs), "stop_epoch": stop_epoch, "revision": revision}
            tx.execute(
                update(trials)
                .where(trials.c.study_id == study_id, trials.c.number == number, trials.c.status.is_(None))
                .values(**values)
            )

    def _turn(self, turn: Turn) -> _TurnOf:
        return _TurnOf(self._db, turn)

    def _change(self, tx: Connection, turn: Turn, **values: Any) -> None:
        tx.execute(update(studies).where(studies.c.job_id == turn.study_id).values(**values))


class _TurnOf:
    """A transaction that begins with the tune job's row and the fence."""

    def __init__(self, db: Database, turn: Turn) -> None:
        self._transaction = db.write()
        self._turn = turn

    def __enter__(self) -> Connection:
        tx = self._transaction.__enter__()
        try:
            study_id = self._turn.study_id
            # the row's lock only: in the order that everybody takes them in
            tx.execute(update(jobs).where(jobs.c.id == study_id).values(kind=jobs.c.kind))
            held = tx.execute(
                update(studies)
                .where(studies.c.job_id == study_id, studies.c.turn_token == self._turn.token)
                .values(turn_token=self._turn.token)
            ).rowcount
            if not held:
                raise _stale(self._turn)
        except BaseException as error:
            self._transaction.__exit__(type(error), error, error.__traceback__)
            raise
        return tx

    def __exit__(self, *details: Any) -> bool | None:
        return self._transaction.__exit__(*details)


def _stale(turn: Turn) -> StaleClaim:
    return StaleClaim(f"The turn at the study {turn.study_id} is somebody else's by now.")


def _study(tx: Connection, study_id: str) -> Study:
    query = (
        select(studies, jobs.c.state, jobs.c.cancel_requested)
        .join(jobs, jobs.c.id == studies.c.job_id)
        .where(studies.c.job_id == study_id)
    )
    row = tx.execute(query).one_or_none()
    if row is None:
        raise NotFound(f"There is no study {study_id!r}.", code="study_not_found", hint="Name a tune job.")
    return Study(
        id=row.job_id,
        revision=row.revision,
        inherited=row.inherited,
        asked=row.asked,
        complete=row.complete,
        pruned=row.pruned,
        failed=row.failed,
        cancelled=row.cancelled,
        best=row.best,
        attrs=row.attrs,
        publisher=row.publisher,
        wake_at=row.wake_at,
        cancel_requested=bool(row.cancel_requested),
        state=JobState(row.state),
    )


def with_jobs() -> Any:
    """Trials, each with the facts of its job that ``trial_from`` reads; an inherited one's may have been removed."""
    more = ("state", "started_at", "finished_at", "run_dir", "worker_id", "metrics", "progress", "error")
    return select(trials, *(jobs.c[name].label(f"job_{name}") for name in more)).outerjoin(
        jobs, jobs.c.id == trials.c.job_id
    )


def trial_from(row: Row[Any]) -> Trial:
    """The record of one row of ``with_jobs``."""
    data = row._mapping
    status = data["status"]
    if status is None:
        status = TrialStatus.WAITING if data["job_state"] == JobState.QUEUED else TrialStatus.RUNNING
    pairs = data["intermediate"]
    return Trial(
        study_id=data["study_id"],
        number=data["number"],
        job_id=data["job_id"],
        source=TrialSource(data["source"]),
        params=data["params"],
        status=TrialStatus(status),
        values=data["values"],
        intermediate=None if pairs is None else [(int(epoch), float(value)) for epoch, value in pairs],
        attrs=data["attrs"],
        stop_epoch=data["stop_epoch"],
        asked_at=data["asked_at"],
        told_at=data["told_at"],
        revision=data["revision"],
        started_at=data["job_started_at"],
        finished_at=data["job_finished_at"],
        run_dir=data["job_run_dir"],
        worker_id=data["job_worker_id"],
        metrics=data["job_metrics"] or {},
        progress=data["job_progress"],
        error=data["job_error"],
    )
