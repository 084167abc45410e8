"""Jobs that are over, for whoever cleans up after them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, delete, func, not_, or_, select

from shared.jobs import JobState
from shared.store.database import Database
from shared.store.schema import jobs, model_versions

_ENDED = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
_PAGE = 500
_JOB_ID = re.compile(r"job_[0-9a-z]+")


@dataclass(frozen=True, slots=True)
class EndedJob:
    """``published``: one of its versions is still there."""

    id: str
    run_dir: str | None
    finished_at: float
    published: bool


@dataclass(frozen=True, slots=True)
class InUse:
    """What jobs that are not over need."""

    run_dirs: frozenset[str]
    job_ids: frozenset[str]
    versions: frozenset[tuple[str, int]]


class EndedJobs:
    """Thread-safe."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def older_than(self, seconds: float, *, top: bool = False) -> Iterator[EndedJob]:
        """Jobs that ended longer ago, oldest first, read page by page. ``top``: without trials of studies."""
        after = ""
        has_version = (
            select(model_versions.c.job_id)
            .where(model_versions.c.job_id == jobs.c.id, model_versions.c.deleted_at.is_(None))
            .exists()
        )
        while True:
            query = (
                select(jobs.c.id, jobs.c.run_dir, jobs.c.finished_at, has_version.label("published"))
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
                yield EndedJob(row.id, row.run_dir, row.finished_at, bool(row.published))
            if len(rows) < _PAGE:
                return
            after = rows[-1].id

    def in_use(self) -> InUse:
        """What the queued and running jobs have, go on from, and begin with."""
        run_dirs: set[str] = set()
        job_ids: set[str] = set()
        versions: set[tuple[str, int]] = set()
        with self._db.read() as tx:
            query = select(
                jobs.c.id, jobs.c.run_dir, jobs.c.resume_from, jobs.c.parent_id, jobs.c.spec
            ).where(jobs.c.state.not_in(_ENDED))
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

    def forget(self, job_id: str) -> list[str]:
        """Delete an ended job's rows, and those of its trials; the run folders that are nobody's now.

        Empty if it is not there, has not ended, or has a version or an unfinished part by now.
        """
        with self._db.write() as tx:
            family = or_(jobs.c.id == job_id, jobs.c.parent_id == job_id)
            rows = tx.execute(select(jobs.c.id, jobs.c.run_dir, jobs.c.state).where(family)).all()
            ids = [row.id for row in rows]
            held = tx.execute(
                select(func.count())
                .select_from(model_versions)
                .where(and_(model_versions.c.job_id.in_(ids), model_versions.c.deleted_at.is_(None)))
            ).scalar_one()
            if job_id not in ids or held or any(row.state not in _ENDED for row in rows):
                return []
            tx.execute(delete(jobs).where(family, not_(jobs.c.id == job_id)))
            tx.execute(delete(jobs).where(jobs.c.id == job_id))
        return [row.run_dir for row in rows if row.run_dir]


def _walk(value: Any) -> Iterator[Any]:
    yield value
    if isinstance(value, dict):
        for item in value.values():
            yield from _walk(item)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item)
