"""Published models: versions, what they came from, and labels. The files are ``shared.model_repo``'s."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, Row, func, select, update
from sqlalchemy.dialects import postgresql, sqlite

from shared.errors import Conflict, NotFound
from shared.jobs import Claim, Page
from shared.store.database import Database, json_safe
from shared.store.label_rows import holders, no_version
from shared.store.rows import held_by, stale
from shared.store.schema import jobs, model_labels, model_versions, models


@dataclass(frozen=True, slots=True)
class Version:
    """One published version. It was written by ``job_id``; ``deleted_at`` is set when its files are gone."""

    model: str
    version: int
    job_id: str | None
    created_at: float
    deleted_at: float | None
    size_bytes: int
    metrics: dict[str, Any]
    signatures: dict[str, Any]
    classes: list[str] | None
    lineage: dict[str, Any]
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Model:
    """A served name. ``latest_version`` is the highest one not deleted, None when there is none; ``next_version`` is
    what the next publish gets, since numbers are never used again.
    """

    name: str
    created_at: float
    latest_version: int | None
    labels: dict[str, int] = field(default_factory=dict)
    next_version: int = 1
    default_version: int | None = None  # after a rollback; None: the highest AVAILABLE one


@dataclass(frozen=True, slots=True)
class Publication:
    """What is recorded with a version."""

    size_bytes: int
    metrics: Mapping[str, Any]
    signatures: Mapping[str, Any]
    classes: list[str] | None
    lineage: Mapping[str, Any]


class ModelStore:
    """Records of models. All methods are thread-safe and atomic, and may raise ``Unavailable``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def publish(
        self,
        claim: Claim,
        model: str,
        publication: Publication,
        *,
        place: Callable[[int], int],
    ) -> int:
        """Give a finished export the model's next version number, and record it.

        ``place(lowest)`` is called once with the lowest number allowed, inside the transaction and with the model's
        row locked, and returns the number under which it made the files visible. So two jobs that publish at once
        get two numbers without a gap, and a number is never used again. If the process dies between ``place`` and
        the commit, the files are there without a record; the job's next attempt finds and adopts them through
        ``place``.

        Raises:
            StaleClaim: the job is no longer this claim's; ``place`` was not called.
        """
        with self._db.write() as tx:
            self._check_fence(tx, claim)
            last = self._locked_last_version(tx, model)
            version = place(last + 1)
            self._db.upsert(
                tx,
                model_versions,
                [
                    {
                        "model": model,
                        "version": version,
                        "job_id": claim.job_id,
                        "created_at": tx.execute(select(self._db.now())).scalar_one(),
                        "deleted_at": None,
                        "size_bytes": publication.size_bytes,
                        "metrics": json_safe(publication.metrics),
                        "signatures": json_safe(publication.signatures),
                        "classes": publication.classes,
                        "lineage": json_safe(publication.lineage),
                    }
                ],
            )
            changes = {"last_version": max(last, version), "traffic_at": self._db.now()}
            tx.execute(update(models).where(models.c.name == model).values(**changes))
        return version

    def published_by(self, job_id: str) -> tuple[str, int] | None:
        """(model, version) that a job has published already, if any: an earlier attempt may have."""
        with self._db.read() as tx:
            row = tx.execute(
                select(model_versions.c.model, model_versions.c.version)
                .where(model_versions.c.job_id == job_id)
                .limit(1)
            ).one_or_none()
        return (row.model, row.version) if row is not None else None

    def find(self, *, after: str | None = None, limit: int = 50) -> Page[Model]:
        """Models by name; ``after`` is the last name seen."""
        query = select(models).order_by(models.c.name).limit(limit + 1)
        if after is not None:
            query = query.where(models.c.name > after)
        with self._db.read() as tx:
            rows = tx.execute(query).all()
            items = [self._model(tx, row) for row in rows[:limit]]
        return Page(items, has_more=len(rows) > limit)

    def get(self, name: str) -> Model:
        """One model.

        Raises:
            NotFound: no such model.
        """
        with self._db.read() as tx:
            row = tx.execute(select(models).where(models.c.name == name)).one_or_none()
            if row is None:
                raise NotFound(
                    f"There is no model {name[:80]!r}.",
                    code="model_not_found",
                    field="model",
                    hint="See what is there with GET /models; a train job with 'publish' makes one.",
                )
            return self._model(tx, row)

    def versions(self, name: str, *, after: int | None = None, limit: int = 50) -> Page[Version]:
        """Versions that are not deleted, newest first; ``after`` is the last number seen.

        Raises:
            NotFound: no such model.
        """
        self.get(name)
        query = (
            select(model_versions)
            .where(model_versions.c.model == name, model_versions.c.deleted_at.is_(None))
            .order_by(model_versions.c.version.desc())
            .limit(limit + 1)
        )
        if after is not None:
            query = query.where(model_versions.c.version < after)
        with self._db.read() as tx:
            rows = tx.execute(query).all()
            labels = self._labels(tx, name)
        return Page([_version(row, labels) for row in rows[:limit]], has_more=len(rows) > limit)

    def held(self, name: str) -> frozenset[int]:
        """The versions that a label leads to, or that are the default: those can't be deleted."""
        with self._db.read() as tx:
            return frozenset(holders(tx, name))

    def version(self, name: str, version: int) -> Version:
        """One version.

        Raises:
            NotFound: no such model, no such version, or a deleted one.
        """
        with self._db.read() as tx:
            return _version(self._version_row(tx, name, version), self._labels(tx, name))

    def delete_version(self, name: str, version: int) -> Version:
        """Record that a version is gone; the caller then removes its files.

        Raises:
            NotFound: no such model or version.
            Conflict: a label leads to it, or it is the default.
        """
        with self._db.write() as tx:
            # labels are written under this lock too: none comes to a version that is just going
            tx.execute(select(models.c.name).where(models.c.name == name).with_for_update())
            record = _version(self._version_row(tx, name, version), self._labels(tx, name))
            holder = holders(tx, name).get(version)
            if holder is not None:
                raise Conflict(
                    f"Version {version} of {name!r} gets requests by {holder}.",
                    code="version_labelled",
                    hint="Move the label to another version first.",
                )
            tx.execute(
                update(model_versions)
                .where(model_versions.c.model == name, model_versions.c.version == version)
                .values(deleted_at=self._db.now())
            )
        return record

    def _check_fence(self, tx: Connection, claim: Claim) -> None:
        held = tx.execute(select(jobs.c.id).where(held_by(claim)).with_for_update()).one_or_none()
        if held is None:
            raise stale(claim)

    def _locked_last_version(self, tx: Connection, model: str) -> int:
        insert = (sqlite if self._db.is_sqlite else postgresql).insert(models)
        tx.execute(insert.values(name=model, created_at=self._db.now()).on_conflict_do_nothing())
        return int(
            tx.execute(
                select(models.c.last_version).where(models.c.name == model).with_for_update()
            ).scalar_one()
        )

    def _labels(self, tx: Connection, model: str) -> dict[str, int]:
        rows = tx.execute(
            select(model_labels.c.label, model_labels.c.version)
            .where(model_labels.c.model == model)
            .order_by(model_labels.c.label)
        ).all()
        return {row.label: row.version for row in rows}

    def _model(self, tx: Connection, row: Row[Any]) -> Model:
        latest = tx.execute(
            select(func.max(model_versions.c.version)).where(
                model_versions.c.model == row.name, model_versions.c.deleted_at.is_(None)
            )
        ).scalar_one()
        default = (row.traffic or {}).get("default")
        return Model(
            row.name, row.created_at, latest, self._labels(tx, row.name), row.last_version + 1, default
        )

    def _version_row(self, tx: Connection, model: str, version: int) -> Row[Any]:
        row = tx.execute(
            select(model_versions).where(
                model_versions.c.model == model,
                model_versions.c.version == version,
                model_versions.c.deleted_at.is_(None),
            )
        ).one_or_none()
        if row is None:
            raise no_version(model, version)
        return row


def _version(row: Row[Any], labels: Mapping[str, int]) -> Version:
    return Version(
        model=row.model,
        version=row.version,
        job_id=row.job_id,
        created_at=row.created_at,
        deleted_at=row.deleted_at,
        size_bytes=row.size_bytes,
        metrics=row.metrics,
        signatures=row.signatures,
        classes=row.classes,
        lineage=row.lineage,
        labels=tuple(label for label, number in labels.items() if number == row.version),
    )
