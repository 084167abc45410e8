"""Specs and empty stores for tests."""

from __future__ import annotations

import functools
import shutil
import tempfile
from pathlib import Path
from typing import Any

from sqlalchemy import make_url

from shared.specs import TrainJob, parse_job
from shared.store import migrate


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
