"""One platform in containers for all tests here; without a Docker engine they are skipped, in CI too.

MODELYARD_COMPOSE=required turns the skip into a failure; `make compose-test` sets it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.compose import digits
from tests.compose.engine import Compose, why_no_engine
from tests.conftest import free_port

# Read at import: each test begins without MODELYARD_ variables.
REQUIRED = os.environ.get("MODELYARD_COMPOSE") == "required"


@pytest.fixture(scope="session")
def engine() -> None:
    """Skips without a Docker engine."""
    if reason := why_no_engine():
        if REQUIRED:
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="session")
def compose(engine: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """The platform with two workers, up and healthy."""
    project = Compose(tmp_path_factory.mktemp("compose"), f"modelyard-test-{os.getpid()}", free_port())
    try:
        project.up(workers=2)
        yield project
    finally:
        project.down()


@pytest.fixture(scope="session")
def digits_id(compose: Compose, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The digits, uploaded."""
    file = tmp_path_factory.mktemp("data") / "digits.npz"
    digits.write(file)
    return compose.upload(file)
