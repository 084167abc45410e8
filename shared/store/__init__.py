"""The store: the one place where the truth about jobs, datasets and models is kept.

``Store(url)`` opens it; ``migrate(url)`` brings its tables up to date. SQLite (WAL) and PostgreSQL behave alike;
the contract tests in ``tests/contract/store`` run on both.
"""

from __future__ import annotations

from sqlalchemy import text

from shared.store.audit import AuditRecord, AuditStore
from shared.store.census import CensusStore
from shared.store.claims import ClaimStore, Report, Swept
from shared.store.database import Database
from shared.store.datasets import Dataset, DatasetStore
from shared.store.ended_jobs import EndedJobs
from shared.store.gangs import GangState, GangStatus, GangStore, GangView, SeatClaim, SeatState
from shared.store.jobs import JobStore, Series
from shared.store.keys import Key, KeyStore
from shared.store.label_rows import Label, ModelEvent, Traffic, Wanted
from shared.store.labels import LabelStore
from shared.store.migrate import current_revision, head_revision, migrate
from shared.store.models import Model, ModelStore, Publication, Version
from shared.store.projects import Project, ProjectStore
from shared.store.studies import NewTrial, StudyStore
from shared.store.trial_pages import TrialPages
from shared.store.waiting import WaitingStore
from shared.store.workers import Worker, WorkerStore

__all__ = [
    "AuditRecord",
    "AuditStore",
    "CensusStore",
    "ClaimStore",
    "Database",
    "Dataset",
    "DatasetStore",
    "GangState",
    "GangStatus",
    "GangStore",
    "GangView",
    "JobStore",
    "Key",
    "KeyStore",
    "Label",
    "LabelStore",
    "Model",
    "ModelEvent",
    "ModelStore",
    "NewTrial",
    "Project",
    "ProjectStore",
    "Publication",
    "Report",
    "SeatClaim",
    "SeatState",
    "Series",
    "Store",
    "StudyStore",
    "Swept",
    "Traffic",
    "TrialPages",
    "Version",
    "WaitingStore",
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
        self.ended_jobs = EndedJobs(self._db)
        self.datasets = DatasetStore(self._db)
        self.models = ModelStore(self._db)
        self.labels = LabelStore(self._db)
        self.studies = StudyStore(self._db)
        self.trials = TrialPages(self._db)
        self.workers = WorkerStore(self._db)
        self.gangs = GangStore(self._db)
        self.projects = ProjectStore(self._db)
        self.waiting = WaitingStore(self._db)
        self.census = CensusStore(self._db)
        self.keys = KeyStore(self._db)
        self.audit = AuditStore(self._db)

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
