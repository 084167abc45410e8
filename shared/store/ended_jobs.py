"""Jobs that are over, for whoever cleans up after them."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, not_, or_, select

from shared.jobs import JobState
from shared.store.database import Database
from shared.store.schema import jobs, model_versions

_ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
_PAGE = 500
_JOB_ID = re.compile(r"job_[0-9a-z]+")


@dataclass(frozen=True, slots=True)
class EndedJob:
    id: str
    parent_id: str | None
    run_dir: str | None
    finished_at: float


@dataclass(frozen=True, slots=True)
class InUse:
    """What jobs that are not over need."""

    run_dirs: frozenset[str]
    job_ids: frozenset[str]
    versions: frozenset[tuple[str, int]]

    def __or__(self, other: InUse) -> InUse:
        return InUse(
            self.run_dirs | other.run_dirs, self.job_ids | other.job_ids, self.versions | other.versions
        )


class EndedJobs:
    """Thread-safe."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def older_than(self, seconds: float, *, top: bool = False) -> Iterator[EndedJob]:
        """Jobs that ended longer ago, oldest first, read page by page. ``top``: without trials of studies."""
        after = ""
        while True:
            query = (
                select(jobs.c.id, jobs.c.parent_id, jobs.c.run_dir, jobs.c.finished_at)
                .where(
                    jobs.c.id > after, jobs.c.state.in_(_ENDED), jobs.c.finished_at < self._db.now() - seconds
                )
                .order_by(jobs.c.id)
                .limit(_PAGE)
            )
            if top:
                query = query.where(jobs.c.parent_id.is_(None))
            with self._db.read() as tx:
                rows = tx.execute(query).all()
            for row in rows:
                yield EndedJob(row.id, row.parent_id, row.run_dir, row.finished_at)
            if len(rows) < _PAGE:
                return
            after = rows[-1].id

    def in_use(self, *, after: str = "") -> InUse:
        """What the queued and running jobs have, go on from, and begin with; ``after``: those with a higher id only."""
        run_dirs: set[str] = set()
        job_ids: set[str] = set()
        versions: set[tuple[str, int]] = set()
        with self._db.read() as tx:
            query = select(
                jobs.c.id, jobs.c.run_dir, jobs.c.resume_from, jobs.c.parent_id, jobs.c.spec
            ).where(jobs.c.state.not_in(_ENDED), jobs.c.id > after)
            rows = tx.execute(query).all()
        for row in rows:
            run_dirs |= {folder for folder in (row.run_dir, row.resume_from) if folder}
            job_ids |= {row.id} | ({row.parent_id} if row.parent_id else set())
            for value in _walk(row.spec):
                if isinstance(value, str):
                    job_ids.update(_JOB_ID.findall(value))
                elif isinstance(value, dict) and isinstance(value.get("version"), int):
                    versions.add((str(value.get("model")), value["version"]))
        return InUse(frozenset(run_dirs), frozenset(job_ids), frozenset(versions))

    def family(
        self, job_id: str, in_use: InUse, *, without: Collection[tuple[str, int]] = ()
    ) -> dict[str, str | None] | None:
        """What would go with an ended job, as ids and run folders: itself, and the trials of a study.

        None if it has to stay: it is not there, has not ended, has a version, or is needed; what is true of a trial
        holds for its study. ``without``: versions that are taken to be gone.
        """
        with self._db.read() as tx:
            return _family(tx, job_id, in_use, without)

    def forget(self, job_id: str, in_use: InUse) -> dict[str, str | None] | None:
        """Delete the rows of a ``family``, which is the answer; its run folders are nobody's now."""
        with self._db.write() as tx:
            going = _family(tx, job_id, in_use, ())
            if going is not None:
                family = or_(jobs.c.id == job_id, jobs.c.parent_id == job_id)
                tx.execute(delete(jobs).where(family, not_(jobs.c.id == job_id)))
                tx.execute(delete(jobs).where(jobs.c.id == job_id))
        return going


def _family(
    tx: Connection, job_id: str, in_use: InUse, without: Collection[tuple[str, int]]
) -> dict[str, str | None] | None:
    family = or_(jobs.c.id == job_id, jobs.c.parent_id == job_id)
    rows = tx.execute(select(jobs.c.id, jobs.c.run_dir, jobs.c.state).where(family)).all()
    found: dict[str, str | None] = {row.id: row.run_dir for row in rows}
    published = tx.execute(
        select(model_versions.c.model, model_versions.c.version)
        .join(jobs, jobs.c.id == model_versions.c.job_id)
        .where(family, model_versions.c.deleted_at.is_(None))
    )
    if (
        job_id not in found
        or any(row.state not in _ENDED for row in rows)
        or any((row.model, row.version) not in without for row in published)
        or any(one in in_use.job_ids or folder in in_use.run_dirs for one, folder in found.items())
    ):
        return None
    return found


def _walk(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict):
        for item in value.values():
            yield from _walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item)
