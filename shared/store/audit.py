"""The audit log: who changed what, and who was refused. Rows are added and read, never changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import select

from shared.jobs import Page
from shared.store.database import Database
from shared.store.schema import audit_log


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One request. ``key_id`` is None where nobody needed a key; ``seq`` grows."""

    seq: int
    at: float
    key_id: str | None
    who: str
    role: str | None
    method: str
    route: str
    target: str
    status: int
    request_id: str
    address: str | None


class AuditStore:
    """All methods are thread-safe and atomic, and may raise ``Unavailable``."""

    def __init__(self, db: Database) -> None:
        self._db = db

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append; the members are those of ``AuditRecord`` without ``seq``."""
        if records:
            with self._db.write() as tx:
                self._db.insert(tx, audit_log, records)

    def find(
        self, *, after: int | None = None, limit: int = 50, key_id: str | None = None
    ) -> Page[AuditRecord]:
        """Newest first; ``after`` is the last number seen."""
        query = select(audit_log).order_by(audit_log.c.seq.desc()).limit(limit + 1)
        if after is not None:
            query = query.where(audit_log.c.seq < after)
        if key_id is not None:
            query = query.where(audit_log.c.key_id == key_id)
        with self._db.read() as tx:
            rows = tx.execute(query).all()
        return Page([AuditRecord(**row._mapping) for row in rows[:limit]], has_more=len(rows) > limit)
