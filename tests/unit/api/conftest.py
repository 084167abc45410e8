"""The application in this process, on a store of its own, with a broker and a model server that are down."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from services.api.resources import Resources
from shared.settings import Settings
from shared.store import Store
from tests.api_client import TestClient, client_of
from tests.builders import migrated


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    allowed = tmp_path / "allowed"
    allowed.mkdir()
    (tmp_path / "code").mkdir()
    settings = Settings(
        home=tmp_path / "home",
        broker_url="redis://127.0.0.1:1/0",
        serving_url="http://127.0.0.1:1",
        allowed_paths=str(allowed),
        code_dirs=str(tmp_path / "code"),
        sweep_seconds=60,
        metrics_kept_seconds=0,
        max_body_mb=1,
        max_upload_mb=1,
    )
    migrated(settings.store_url)
    return settings


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    with client_of(settings) as client:
        yield client


@pytest.fixture
def resources(client: TestClient) -> Resources:
    """What the application behind ``client`` holds."""
    found: Resources = client.app.state.resources  # type: ignore[attr-defined]
    return found


@pytest.fixture
def store(resources: Resources) -> Store:
    return resources.store
