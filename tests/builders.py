"""Specs and empty stores for tests."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from shared.specs import TrainJob, parse_job
from shared.store import Publication, Store, migrate


def train_request(**changes: Any) -> dict[str, Any]:
    """A valid body for ``POST /jobs``."""
    return {
        "kind": "train",
        "model": {"builder": "mlp", "params": {"units": [8]}},
        "dataset": {"tfds": "fashion_mnist"},
        "fit": {"epochs": 1},
        **changes,
    }


def train_spec(**changes: Any) -> TrainJob:
    """The same, checked."""
    return parse_job(train_request(**changes))


def published(store: Store, export: Path, folder: Path) -> int:
    """Put a copy of ``export`` into a model's ``folder`` under the next number, and record it, as a worker does."""
    model = folder.name
    job, _ = store.jobs.create(train_spec(publish={"model": model}))
    taken = store.claims.claim(job.id, "w", 600)
    assert taken is not None
    staged = folder / ".staging"
    shutil.copytree(export, staged)

    def place(lowest: int) -> int:
        staged.rename(folder / str(lowest))
        return lowest

    return store.models.publish(taken[0], model, Publication(10, {}, {}, None, {"job": job.id}), place=place)


def migrated(url: str) -> None:
    """Make the empty SQLite store at ``url``: a copy of one that was migrated once, which is ten times cheaper."""
    file = Path(make_url(url).database or "")
    file.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(_template(), file)


@functools.cache
def _template() -> Path:
    file = Path(tempfile.mkdtemp(prefix="modelyard-test")) / "empty.db"
    migrate(f"sqlite:///{file}")
    assert not file.with_name("empty.db-wal").exists(), "all of it is in the one file"
    return file
