from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.store import Store, migrate


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database, with its tables made by the migrations."""
    sqlite = request.param == "sqlite"
    address = f"sqlite:///{tmp_path}/store.db" if sqlite else request.getfixturevalue("postgres_url")
    migrate(address)
    return address


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = Store(url)
    yield opened
    opened.close()
