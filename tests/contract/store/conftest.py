from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.store import Store
from tests.builders import migrated


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, with its tables made by the migrations."""
    if request.param == "postgresql":
        return str(request.getfixturevalue("migrated_postgres_url"))
    address = f"sqlite:///{tmp_path}/store.db"
    migrated(address)
    return address


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store(url)
    yield opened
    opened.close()
