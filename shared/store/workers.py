"""Who works here: a row per worker process, with a heartbeat."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from sqlalchemy import delete, func, select, update

from shared.errors import NotFound
from shared.jobs import JobState
from shared.store.database import Database, json_safe
from shared.store.schema import gang_seats, jobs, workers

FORGET_AFTER_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process. ``age`` counts seconds since its last heartbeat, ``lease_left`` those until the first lease of
    its jobs ends (None without a job); both by the database's clock.
    """

    id: str
    host: str
    pid: int
    slots: int
    started_at: float
    heartbeat_at: float
    age: float
    info: dict[str, Any]
    jobs: tuple[str, ...] = field(default=())
    lease_left: float | None = None
    queues: tuple[str, ...] = ("default",)
    draining: str | None = None  # "finish": takes no new jobs; "now": gives those it has back too


class WorkerStore:
    """Records of workers. All methods are thread-safe and atomic, and may raise ``Unavailable``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def beat(
        self,
        worker_id: str,
        *,
        host: str,
        pid: int,
        slots: int,
        started_at: float,
        info: Mapping[str, Any],
        queues: Sequence[str] = ("default",),
    ) -> str | None:
        """Say that a worker is alive, and learn whether it is draining; forgets those not heard of for a day."""
        with self._db.write() as tx:
            now = tx.execute(select(self._db.now())).scalar_one()
            row = {
                "id": worker_id,
                "host": host,
                "pid": pid,
                "slots": slots,
                "started_at": started_at,
                "heartbeat_at": now,
                "info": json_safe(info),
                "queues": list(queues),
            }
            self._db.upsert(tx, workers, [row])
            tx.execute(delete(workers).where(workers.c.heartbeat_at < now - FORGET_AFTER_SECONDS))
            query = select(workers.c.draining).where(workers.c.id == worker_id)
            return cast("str | None", tx.execute(query).scalar_one())

    def drain(self, worker_id: str, *, now: bool) -> None:
        """Have a worker take no more jobs; with ``now``, give back those it has. It claims nothing from here on.

        Raises:
            NotFound: no such worker.
        """
        self._set_draining(worker_id, "now" if now else "finish")

    def undrain(self, worker_id: str) -> None:
        """Have it take jobs again.

        Raises:
            NotFound: no such worker.
        """
        self._set_draining(worker_id, None)

    def draining(self, worker_id: str) -> str | None:
        """``finish``, ``now``, or None: it works, or there is no such worker."""
        with self._db.read() as tx:
            query = select(workers.c.draining).where(workers.c.id == worker_id)
            return cast("str | None", tx.execute(query).scalar())

    def _set_draining(self, worker_id: str, value: str | None) -> None:
        with self._db.write() as tx:
            changed = tx.execute(update(workers).where(workers.c.id == worker_id).values(draining=value))
            if not changed.rowcount:
                raise NotFound(
                    f"There is no worker {worker_id!r}.",
                    code="worker_not_found",
                    hint="See them with GET /workers.",
                )

    def leave(self, worker_id: str) -> None:
        """Forget a worker that ends in good order."""
        with self._db.write() as tx:
            tx.execute(delete(workers).where(workers.c.id == worker_id))

    def find(self) -> list[Worker]:
        """All known workers with the jobs they run, by id."""
        with self._db.read() as tx:
            rows = tx.execute(
                select(workers, (self._db.now() - workers.c.heartbeat_at).label("age")).order_by(workers.c.id)
            ).all()
            running = tx.execute(
                select(
                    jobs.c.worker_id, jobs.c.id, (jobs.c.lease_until - self._db.now()).label("left")
                ).where(jobs.c.state == JobState.RUNNING)
            ).all()
            seats = tx.execute(
                select(gang_seats.c.worker_id, gang_seats.c.job_id).where(gang_seats.c.worker_id.is_not(None))
            ).all()
        mine: dict[str, list[str]] = {}
        left: dict[str, float] = {}
        for row in running:
            mine.setdefault(row.worker_id, []).append(row.id)
            if row.left is not None:
                left[row.worker_id] = min(row.left, left.get(row.worker_id, row.left))
        for seat in seats:  # of jobs that others lead
            mine.setdefault(seat.worker_id, []).append(seat.job_id)
        return [
            Worker(
                id=row.id,
                host=row.host,
                pid=row.pid,
                slots=row.slots,
                started_at=row.started_at,
                heartbeat_at=row.heartbeat_at,
                age=max(0.0, row.age),
                info=row.info,
                jobs=tuple(mine.get(row.id, ())),
                lease_left=left.get(row.id),
                queues=tuple(row.queues or ("default",)),
                draining=row.draining,
            )
            for row in rows
        ]

    def count_alive(self, *, within_seconds: float) -> int:
        """Workers heard of within so many seconds."""
        with self._db.read() as tx:
            query = select(func.count()).where(workers.c.heartbeat_at >= self._db.now() - within_seconds)
            return int(tx.execute(query.select_from(workers)).scalar_one())
