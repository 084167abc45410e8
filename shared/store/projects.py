"""Projects: who shares the workers, and how many jobs of each may run at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import Select, func, select, text

from shared.store.database import Database
from shared.store.order import RUNNING
from shared.store.schema import CLAIMABLE, jobs, projects


@dataclass(frozen=True, slots=True)
class Project:
    """What is known of a project. It exists as soon as a job or a limit names it."""

    name: str
    max_running: int | None  # None: no limit
    queued: int
    running: int  # jobs that hold a slot; a study does not, its trials do


class ProjectStore:
    """Limits and numbers of projects. All methods are thread-safe and atomic, and may raise ``Unavailable``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def set_limit(self, name: str, max_running: int | None) -> Project:
        """At most so many jobs of the project run from now on; None: any number. Those that run go on."""
        with self._db.write() as tx:
            self._db.upsert(tx, projects, [{"name": name, "max_running": max_running}])
        return self.get(name)

    def get(self, name: str) -> Project:
        """One project; of a name that nobody has used, one without jobs and limit."""
        return next((one for one in self.find() if one.name == name), Project(name, None, 0, 0))

    def find(self) -> list[Project]:
        """All that have, or had, jobs or a limit, by name."""
        counted = "SELECT project, count(*) AS n FROM jobs WHERE {} GROUP BY project"
        with self._db.read() as tx:
            limits = {row.name: row.max_running for row in tx.execute(select(projects))}
            queued = {row.project: row.n for row in tx.execute(text(counted.format("state = 'queued'")))}
            running = {row.project: row.n for row in tx.execute(text(counted.format(RUNNING)))}
        return [
            Project(name, limits.get(name), queued.get(name, 0), running.get(name, 0))
            for name in sorted({*limits, *queued, *running})
        ]

    def waiting_queues(self, name: str) -> list[str]:
        """Queues in which jobs of the project wait."""
        with self._db.read() as tx:
            return sorted(row.queue for row in tx.execute(_waiting(name)))

    def held_back(self, name: str) -> dict[str, str]:
        """A waiting job of a project that has a limit, for each queue in which it has any: when the project's place
        becomes free, a worker of each may have to be woken. Empty for a project without a limit.
        """
        with self._db.read() as tx:
            limit = tx.execute(select(projects.c.max_running).where(projects.c.name == name)).scalar()
            if limit is None:
                return {}
            return {row.queue: row.id for row in tx.execute(_waiting(name))}


def _waiting(project: str) -> Select[Any]:
    return (
        select(jobs.c.queue, func.min(jobs.c.id).label("id"))
        .where(text(CLAIMABLE), jobs.c.project == project)
        .group_by(jobs.c.queue)
    )
