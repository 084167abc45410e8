"""Uploaded datasets: what the files are. The files themselves lie below ``<home>/datasets``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Row, delete, insert, select

from shared.errors import Conflict, NotFound
from shared.jobs import JobState, Page
from shared.names import new_id
from shared.store.database import Database, json_safe
from shared.store.schema import datasets, jobs


@dataclass(frozen=True, slots=True)
class Dataset:
    """One uploaded file. ``path`` is relative to ``<home>/datasets``; ``sha256`` is of the file's bytes."""

    id: str
    name: str
    kind: str
    size_bytes: int
    sha256: str
    path: str
    created_at: float
    info: dict[str, Any]


class DatasetStore:
    """Records of uploads. All methods are thread-safe and atomic, and may raise ``Unavailable``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(
        self,
        *,
        dataset_id: str | None = None,
        name: str,
        kind: str,
        size_bytes: int,
        sha256: str,
        path: str,
        info: Mapping[str, Any],
    ) -> Dataset:
        """Record a file that lies in place already."""
        dataset_id = dataset_id or new_id("ds")
        with self._db.write() as tx:
            tx.execute(
                insert(datasets).values(
                    id=dataset_id,
                    name=name,
                    kind=kind,
                    size_bytes=size_bytes,
                    sha256=sha256,
                    path=path,
                    created_at=self._db.now(),
                    info=json_safe(info),
                )
            )
            row = tx.execute(select(datasets).where(datasets.c.id == dataset_id)).one()
        return _dataset(row)

    def get(self, dataset_id: str) -> Dataset:
        """One dataset.

        Raises:
            NotFound: no such dataset.
        """
        with self._db.read() as tx:
            row = tx.execute(select(datasets).where(datasets.c.id == dataset_id)).one_or_none()
        if row is None:
            raise NotFound(
                f"There is no dataset {dataset_id[:80]!r}.",
                code="dataset_not_found",
                hint="Upload it with POST /datasets, or list what is there with GET /datasets.",
            )
        return _dataset(row)

    def by_hash(self, sha256: str, kind: str) -> Dataset | None:
        """The oldest dataset with the same bytes, if there is one."""
        query = (
            select(datasets)
            .where(datasets.c.sha256 == sha256, datasets.c.kind == kind)
            .order_by(datasets.c.id)
            .limit(1)
        )
        with self._db.read() as tx:
            row = tx.execute(query).one_or_none()
        return _dataset(row) if row is not None else None

    def find(self, *, after: str | None = None, limit: int = 50) -> Page[Dataset]:
        """Newest first; ``after`` is the last id seen."""
        query = select(datasets).order_by(datasets.c.id.desc()).limit(limit + 1)
        if after is not None:
            query = query.where(datasets.c.id < after)
        with self._db.read() as tx:
            rows = tx.execute(query).all()
        return Page([_dataset(row) for row in rows[:limit]], has_more=len(rows) > limit)

    def delete(self, dataset_id: str) -> Dataset:
        """Forget a dataset; the caller then removes its file.

        Raises:
            NotFound: no such dataset.
            Conflict: a job that has not ended names it.
        """
        dataset = self.get(dataset_id)
        with self._db.write() as tx:
            unfinished = tx.execute(
                select(jobs.c.id, jobs.c.spec).where(jobs.c.state.in_([JobState.QUEUED, JobState.RUNNING]))
            ).all()
            users = [
                row.id
                for row in unfinished
                if any(_names(row.spec.get(part, {}), dataset_id) for part in ("dataset", "model"))
            ]
            if users:
                raise Conflict(
                    f"The dataset {dataset_id} is in use by {', '.join(users[:5])}.",
                    code="dataset_in_use",
                    hint="Wait for these jobs, or cancel them.",
                )
            tx.execute(delete(datasets).where(datasets.c.id == dataset_id))
        return dataset


def _names(spec: Mapping[str, Any], dataset_id: str) -> bool:
    """Whether a job's dataset or model is, or has among its files, this one."""
    return any(
        dataset_id == value or (isinstance(value, list) and dataset_id in value) for value in spec.values()
    )


def _dataset(row: Row[Any]) -> Dataset:
    return Dataset(
        id=row.id,
        name=row.name,
        kind=row.kind,
        size_bytes=row.size_bytes,
        sha256=row.sha256,
        path=row.path,
        created_at=row.created_at,
        info=row.info,
    )
