"""The store: the one place where the truth about jobs, datasets and models is kept.

``Store(url)`` opens it; ``migrate(url)`` brings its tables up to date. SQLite (WAL) and PostgreSQL behave alike;
the contract tests in ``tests/contract/store`` run on both.
"""

from __future__ import annotations

from sqlalchemy import text

from shared.store.claims import ClaimStore, Report, Swept
from shared.store.database import Database
from shared.store.datasets import Dataset, DatasetStore
from shared.store.jobs import JobStore, Series
from shared.store.label_rows import Label, ModelEvent, Traffic, Wanted
from shared.store.labels import LabelStore
from shared.store.migrate import current_revision, head_revision, migrate
from shared.store.models import Model, ModelStore, Publication, Version
from shared.store.workers import Worker, WorkerStore

__all__ = [
    "ClaimStore",
    "Database",
    "Dataset",
    "DatasetStore",
    "JobStore",
    "Label",
    "LabelStore",
    "Model",
    "ModelEvent",
    "ModelStore",
    "Publication",
    "Report",
    "Series",
    "Store",
    "Swept",
    "Traffic",
    "Version",
    "Wanted",
    "Worker",
    "WorkerStore",
    "current_revision",
    "head_revision",
    "migrate",
]


class Store:
    """All parts of the store over one connection pool. Thread-safe; open it after any fork, close it once."""

    def __init__(self, url: str) -> None:
        self._db = Database(url)
        self.jobs = JobStore(self._db)
        self.claims = ClaimStore(self._db)
        self.datasets = DatasetStore(self._db)
        self.models = ModelStore(self._db)
        self.labels = LabelStore(self._db)
        self.workers = WorkerStore(self._db)

    def ping(self) -> None:
        """Return if the database answers.

        Raises:
            Unavailable: it does not.
        """
        with self._db.read() as tx:
            tx.execute(text("SELECT 1"))

    def close(self) -> None:
        """Close all connections."""
        self._db.dispose()
