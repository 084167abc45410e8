"""Which queued job comes next: by priority, then fair shares between projects, then age.

Of the projects that have jobs of the highest priority, that one is served which has the fewest jobs running; of several
such, the one whose last job was claimed longest ago; of several that never had one, the one whose oldest job is oldest.
Within a project the oldest job comes first. So a project with 100,000 jobs gets every second slot when another one
asks for a slot, even where there is but one slot. A project at its limit is passed over.

The cost does not depend on how many jobs wait: the partial index ``ix_jobs_claimable_share`` is skipped through from
one project to the next. It does depend on how many projects have jobs waiting, by two index look-ups for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, Row, text

from shared.store.schema import CLAIMABLE

# A study holds no slot: its trials do, and they are counted.
RUNNING = "state = 'running' AND kind <> 'tune'"

_TOP = text(f"SELECT max(priority) FROM jobs WHERE {CLAIMABLE} AND queue = :queue AND priority < :below")  # noqa: S608
_WAITING = f"FROM jobs WHERE {CLAIMABLE} AND queue = :queue AND priority = :priority"
_HEADS = text(f"""
    WITH RECURSIVE waiting(project) AS (
        SELECT (SELECT min(project) {_WAITING})
        UNION ALL
        SELECT (SELECT min(project) {_WAITING} AND jobs.project > waiting.project)
        FROM waiting WHERE waiting.project IS NOT NULL
    )
    SELECT waiting.project,
        (SELECT id {_WAITING} AND jobs.project = waiting.project
         AND (queued_until IS NULL OR queued_until > :now) ORDER BY id LIMIT 1) AS id,
        projects.max_running, projects.served_at
    FROM waiting LEFT JOIN projects ON projects.name = waiting.project
    WHERE waiting.project IS NOT NULL
""")  # noqa: S608 (constants of ours)
_SHARES = text(f"SELECT project, count(*) AS running FROM jobs WHERE {RUNNING} GROUP BY project")  # noqa: S608
# Notes when a project was served, and answers with its limit. Others who would serve it wait for this transaction.
SERVE = text("""
    INSERT INTO projects (name, served_at) VALUES (:project, :now)
    ON CONFLICT (name) DO UPDATE SET served_at = excluded.served_at RETURNING max_running
""")
WAITING_QUEUES = text(f"""
    WITH RECURSIVE waiting(queue) AS (
        SELECT (SELECT min(queue) FROM jobs WHERE {CLAIMABLE})
        UNION ALL
        SELECT (SELECT min(queue) FROM jobs WHERE {CLAIMABLE} AND jobs.queue > waiting.queue)
        FROM waiting WHERE waiting.queue IS NOT NULL
    )
    SELECT queue FROM waiting WHERE queue IS NOT NULL
""")  # noqa: S608
_ABOVE_ALL = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Next:
    """A job that may be claimed, and why it is before others."""

    job_id: str
    project: str
    priority: int
    running: int  # of its project
    served_at: float | None  # when its project last had a job claimed
    max_running: int | None  # its project's limit

    @property
    def allowed(self) -> bool:
        """Whether its project's limit leaves room."""
        return self.max_running is None or self.running < self.max_running

    @property
    def rank(self) -> tuple[int, int, float, str]:
        """Lower comes first."""
        return (-self.priority, self.running, self.served_at or 0.0, self.job_id)


def next_job(tx: Connection, queues: Sequence[str], now: float) -> Next | None:
    """The job that a free slot of a worker of ``queues`` should take; None when there is none.

    A snapshot: whoever takes it must make sure that nobody else has, and that the project's limit still allows it.
    """
    found: Next | None = None
    shares: dict[str, int] | None = None
    for queue in queues:
        below = _ABOVE_ALL
        while True:
            priority = tx.execute(_TOP, {"queue": queue, "below": below}).scalar()
            if priority is None or (found is not None and priority < found.priority):
                break
            if shares is None:  # not asked while nothing waits
                shares = {row.project: row.running for row in tx.execute(_SHARES)}
            heads = tx.execute(_HEADS, {"queue": queue, "priority": priority, "now": now}).all()
            best = _best(heads, priority, shares)
            if best is not None:
                found = best if found is None or best.rank < found.rank else found
                break
            below = priority
    return found


def _best(heads: Sequence[Row[Any]], priority: int, shares: dict[str, int]) -> Next | None:
    able = (
        Next(row.id, row.project, priority, shares.get(row.project, 0), row.served_at, row.max_running)
        for row in heads
        if row.id is not None
    )
    return min((one for one in able if one.allowed), key=lambda one: one.rank, default=None)


def running_of(tx: Connection, project: str) -> int:
    """Jobs of a project that hold a slot now."""
    query = text(f"SELECT count(*) FROM jobs WHERE {RUNNING} AND project = :project")  # noqa: S608
    return int(tx.execute(query, {"project": project}).scalar_one())
