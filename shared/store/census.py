"""The platform in numbers, for metrics: jobs by state, what waits in each queue, leases, workers, speeds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, text

from shared.jobs import JobState
from shared.store.database import Database
from shared.store.order import RUNNING
from shared.store.schema import CLAIMABLE, JSON, jobs, workers


@dataclass(frozen=True, slots=True)
class Waiting:
    """Jobs of one queue that wait for a slot; those put off before a retry do not."""

    queue: str
    jobs: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Working:
    """A running job. ``lease_left`` is negative when its lease has run out and nobody has swept it yet."""

    job_id: str
    project: str
    model: str | None
    lease_left: float | None
    steps_per_second: float | None
    rows_per_second: float | None


@dataclass(frozen=True, slots=True)
class Staff:
    """Live workers of one queue; one that serves several is counted in each."""

    queue: str
    workers: int
    draining: int
    slots: int  # of those that are not draining


@dataclass(frozen=True, slots=True)
class Census:
    """One moment."""

    states: dict[JobState, int]
    waiting: list[Waiting]
    working: list[Working]
    staff: list[Staff]
    workers_alive: int
    workers_draining: int
    slots: int
    slots_busy: int


class CensusStore:
    """Counts. Thread-safe; may raise ``Unavailable``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def take(self, *, alive_within: float) -> Census:
        """All numbers in one snapshot. Costs a walk over one index of all jobs: keep it for some seconds."""
        age = (self._db.now() - workers.c.heartbeat_at).label("age")
        with self._db.read() as tx:
            now = tx.execute(select(self._db.now())).scalar_one()
            states = dict.fromkeys(JobState, 0)
            for row in tx.execute(select(jobs.c.state, func.count().label("n")).group_by(jobs.c.state)):
                states[JobState(row.state)] = row.n
            waiting = tx.execute(_WAITING).all()
            oldest = select(jobs.c.id, jobs.c.created_at).where(jobs.c.id.in_([row.first for row in waiting]))
            since = {row.id: row.created_at for row in tx.execute(oldest)}
            running = tx.execute(_RUNNING).all()
            staff = tx.execute(
                select(workers.c.id, workers.c.slots, workers.c.queues, workers.c.draining, age)
            ).all()
        alive = [row for row in staff if row.age <= alive_within]
        ids = {row.id for row in alive}
        return Census(
            states=states,
            waiting=[Waiting(row.queue, row.n, max(0.0, now - since[row.first])) for row in waiting],
            working=[_working(row, now) for row in running],
            staff=_by_queue(alive),
            workers_alive=len(alive),
            workers_draining=sum(row.draining is not None for row in alive),
            slots=sum(row.slots for row in alive),
            slots_busy=sum(row.worker_id in ids for row in running),
        )


# ids sort by time
_WAITING = text(
    f"SELECT queue, count(*) AS n, min(id) AS first FROM jobs WHERE {CLAIMABLE} GROUP BY queue ORDER BY queue"  # noqa: S608
)
_RUNNING = text(
    f"SELECT id, project, model, worker_id, lease_until, progress, run FROM jobs WHERE {RUNNING} ORDER BY id"  # noqa: S608
).columns(progress=JSON, run=JSON)


def _working(row: Any, now: float) -> Working:
    speed = (row.progress or {}).get("steps_per_second")
    batch = (row.run or {}).get("global_batch")
    left = None if row.lease_until is None else row.lease_until - now
    rows = None if speed is None or batch is None else speed * batch
    return Working(row.id, row.project, row.model, left, speed, rows)


def _by_queue(alive: list[Any]) -> list[Staff]:
    found: dict[str, list[Any]] = {}
    for row in alive:
        for queue in row.queues or ("default",):
            found.setdefault(queue, []).append(row)
    return [
        Staff(
            queue,
            len(rows),
            sum(row.draining is not None for row in rows),
            sum(row.slots for row in rows if row.draining is None),
        )
        for queue, rows in sorted(found.items())
    ]
