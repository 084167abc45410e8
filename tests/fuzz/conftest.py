"""The API as it runs: processes of its own, a real store, broker and model server, locked, and some things in it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from shared.jobs import JobState
from shared.keys import Role, new_key
from shared.store import Publication, Store, migrate
from tests.builders import train_spec
from tests.conftest import Broker, free_port

ROOT = Path(__file__).parents[2]
START_SECONDS = 120


@dataclass(frozen=True)
class Target:
    """What is fuzzed. ``known``: of each path parameter, values that lead somewhere."""

    url: str
    admin: str
    known: dict[str, list[str]]
    log: Path


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    """Started once; ends with the tests."""
    folder = tmp_path_factory.mktemp("fuzz")
    home = folder / "home"
    broker = Broker(folder)
    broker.start()
    admin = new_key()
    port, serving_port = free_port(), free_port()
    url = f"http://127.0.0.1:{port}"
    (home / "models").mkdir(parents=True)
    database = f"sqlite:///{home}/modelyard.db"
    migrate(database)
    env = {
        **{name: value for name, value in os.environ.items() if not name.startswith("MODELYARD_")},
        "PYTHONPATH": str(ROOT),
        "MODELYARD_HOME": str(home),
        "MODELYARD_PORT": str(port),
        "MODELYARD_BROKER_URL": broker.url,
        "MODELYARD_SERVING_URL": f"http://127.0.0.1:{serving_port}",
        "MODELYARD_SERVING_FINDS_MODELS": "true",
        "MODELYARD_ADMIN_KEY": admin.text,
        "MODELYARD_MAX_BODY_MB": "1",
        "MODELYARD_MAX_UPLOAD_MB": "1",
        "MODELYARD_PUBLISH_TIMEOUT_SECONDS": "0.5",  # nothing that is published here is ever loaded
    }
    log = folder / "api.log"
    serving = ["--rest_api_port", str(serving_port), "--models_dir", str(home / "models")]
    with log.open("wb") as sink:
        processes = [
            subprocess.Popen([sys.executable, "-m", *argv], env=env, cwd=ROOT, stdout=sink, stderr=sink)
            for argv in (["services.serving", *serving], ["services.api"])
        ]
    try:
        for address in (f"http://127.0.0.1:{serving_port}/healthz", f"{url}/healthz"):
            _wait(address, log)
        yield Target(url, admin.text, _filled(database, url, admin.text), log)
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(30)
        broker.stop()


def _wait(address: str, log: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(address, timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    pytest.fail(f"{address} does not answer:\n{log.read_text()[-3000:]}")


def _filled(database: str, url: str, admin: str) -> dict[str, list[str]]:
    store = Store(database)
    made, _ = store.jobs.create(train_spec(publish={"model": "fashion"}))
    taken = store.claims.claim(made.id, "w", 60)
    assert taken is not None
    publication = Publication(10, {"accuracy": 0.9}, {}, ["a", "b"], {"job": made.id})
    for _ in range(2):
        store.models.publish(taken[0], "fashion", publication, place=lambda lowest: lowest)
    store.jobs.request_cancel(made.id, "a test")
    store.claims.finish(taken[0], JobState.CANCELLED)
    viewer = store.keys.add(new_key(), name="viewer", role=Role.VIEWER, created_by="local")
    store.close()
    sent = httpx.post(
        f"{url}/datasets",
        content=b"a,b\n1,2\n3,4\n",
        headers={"Authorization": f"Bearer {admin}", "Content-Type": "text/csv"},
    )
    assert sent.status_code == 201, sent.text
    return {
        "job_id": [made.id],
        "dataset_id": [sent.json()["id"]],
        "model": ["fashion"],
        "version": ["1", "2"],
        "label": ["stable"],
        "key_id": [viewer.id],
        "path": ["job.log"],
        "kind": ["zip", "tar.gz"],
        "project": ["default"],
    }
