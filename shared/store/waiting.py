"""What is known about waiting: who is ahead of a job, how long others took, what its project runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import select, text

from shared.jobs import Job
from shared.store.database import Database
from shared.store.order import RUNNING
from shared.store.schema import CLAIMABLE, JSON

RECENT_JOBS = 500  # of all that succeeded; those of the queue among them are taken
SHOWN_AHEAD = 5
_HERE = f"FROM jobs WHERE {CLAIMABLE} AND queue = :queue"


@dataclass(frozen=True, slots=True)
class Ahead:
    """Jobs that are taken up before another one, as things stand: later ones of other projects have their turns too."""

    count: int
    of_own_project: int
    first: tuple[str, ...]  # ids, at most SHOWN_AHEAD, by priority and age


@dataclass(frozen=True, slots=True)
class Running:
    """A running job, as far as it matters to those that wait."""

    job_id: str
    project: str
    worker_id: str | None
    elapsed: float  # seconds since its attempts began
    eta_seconds: float | None  # as it says itself


class WaitingStore:
    """Reads only. All methods are thread-safe and may raise ``Unavailable``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def ahead(self, job: Job) -> Ahead:
        """What comes before a queued job in its queue: all of a higher priority; of its own, the older ones of its
        project, and of each other project as many as have their turn meanwhile.
        """
        given: dict[str, Any] = {
            "queue": job.queue,
            "priority": job.priority,
            "project": job.project,
            "id": job.id,
        }
        with self._db.read() as tx:
            higher = tx.execute(text(f"SELECT count(*) {_HERE} AND priority > :priority"), given).scalar_one()
            own = tx.execute(
                text(f"SELECT count(*) {_HERE} AND priority = :priority AND project = :project AND id < :id"),
                given,
            ).scalar_one()
            others = tx.execute(
                text(
                    f"SELECT count(*) AS n {_HERE} AND priority = :priority AND project <> :project GROUP BY project"
                ),
                given,
            ).scalars()
            turns = sum(min(count, own + 1) for count in others)
            first = tx.execute(
                text(
                    f"SELECT id {_HERE} AND (priority > :priority OR (priority = :priority AND id < :id)) "
                    "ORDER BY priority DESC, id LIMIT :shown"
                ),
                {**given, "shown": SHOWN_AHEAD},
            ).scalars()
            return Ahead(higher + own + turns, own, tuple(first))

    def running(self) -> list[Running]:
        """All jobs that hold a slot."""
        query = text(
            f"SELECT id, project, worker_id, started_at, progress FROM jobs WHERE {RUNNING}"  # noqa: S608
        ).columns(progress=JSON)
        with self._db.read() as tx:
            now = tx.execute(self._now()).scalar_one()
            return [
                Running(
                    row.id,
                    row.project,
                    row.worker_id,
                    max(0.0, now - (row.started_at or now)),
                    (row.progress or {}).get("eta_seconds"),
                )
                for row in tx.execute(query)
            ]

    def recent_seconds(self, queue: str, kind: str) -> list[float]:
        """How long the last jobs of a queue and kind took that succeeded, newest first; at most 50."""
        query = text(
            "SELECT finished_at - started_at FROM (SELECT * FROM jobs WHERE state = 'succeeded' ORDER BY id DESC "
            "LIMIT :recent) AS recent WHERE queue = :queue AND kind = :kind AND started_at IS NOT NULL "
            "ORDER BY id DESC LIMIT 50"
        )
        with self._db.read() as tx:
            given = {"queue": queue, "kind": kind, "recent": RECENT_JOBS}
            return [float(value) for value in tx.execute(query, given).scalars()]

    def _now(self) -> Any:
        return select(self._db.now())
