"""A model server that knows a ``models.config`` and nothing else, with the API in front: ours, and any given by URL.

    MODELYARD_TEST_SERVING_URL          its REST address
    MODELYARD_TEST_SERVING_MODELS_DIR   its models volume as it is seen here, writable; models.config is written into it
    MODELYARD_TEST_SERVING_MODELS_SEEN  the same as the server sees it, if it is another path there

See docs/serving.md for how to start it.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from shared.serving_client import ServingClient
from shared.settings import Settings
from shared.store import Store, migrate
from tests.builders import published
from tests.conftest import built_once, free_port

ROOT = Path(__file__).parents[3]
PATIENCE = 180.0  # seconds; a server may read its file once in half a minute
# read now: tests run without any MODELYARD_ variable
GIVEN = os.environ.get("MODELYARD_TEST_SERVING_URL")
GIVEN_DIR = os.environ.get("MODELYARD_TEST_SERVING_MODELS_DIR", "")
GIVEN_SEEN = os.environ.get("MODELYARD_TEST_SERVING_MODELS_SEEN") or GIVEN_DIR


@dataclass
class Served:
    """The platform around one model server."""

    settings: Settings
    exports: Path
    store: Store
    client: ServingClient
    api: httpx.Client
    rest: httpx.Client  # of the model server itself

    def name(self) -> str:
        """A model that nobody has used before: a server by URL outlives the tests."""
        return f"contract-{secrets.token_hex(4)}"

    def publish(self, model: str, kind: str) -> int:
        """Put an export on the volume under the next number, and record it, as a worker does."""
        return published(self.store, self.exports / kind, self.settings.paths.models / model)

    def answer(self, model: str, where: str = "") -> float:
        """Of the model server itself; the models say their number."""
        found = self.rest.post(f"/v1/models/{model}{where}:predict", json={"instances": [[1.0]]})
        assert found.status_code == 200, found.text
        (row,) = found.json()["predictions"]
        return float(row[0] if isinstance(row, list) else row)


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built_once(tmp_path_factory, ROOT / "tests" / "traffic" / "build_versions.py")


@pytest.fixture(scope="module", params=["embedded", *(["url"] if GIVEN else [])])
def served(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, exports: Path
) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("home")
    models = home / "models"
    if request.param == "url":
        assert GIVEN_DIR, "MODELYARD_TEST_SERVING_MODELS_DIR must name the server's models volume"
        models.symlink_to(GIVEN_DIR)
        serving_url, seen = str(GIVEN), GIVEN_SEEN
        commands = [["services.api"]]
    else:
        models.mkdir()
        (models / "models.config").write_text("model_config_list { }")
        port = free_port()
        serving_url, seen = f"http://127.0.0.1:{port}", str(models)
        flags = [f"--rest_api_port={port}", "--port=0", f"--model_config_file={models}/models.config"]
        flags += ["--model_config_file_poll_wait_seconds=1", "--max_num_load_retries=0"]
        flags += ["--allow_version_labels_for_unavailable_models=true"]
        commands = [["services.serving", *flags], ["services.api"]]
    api_port = free_port()
    given = {
        "MODELYARD_HOME": str(home),
        "MODELYARD_BROKER_URL": "redis://127.0.0.1:1/0",
        "MODELYARD_SERVING_URL": serving_url,
        "MODELYARD_SERVING_MODELS_DIR": seen,
        "MODELYARD_PORT": str(api_port),
        "MODELYARD_SWEEP_SECONDS": "0.3",
        "MODELYARD_PUBLISH_TIMEOUT_SECONDS": str(PATIENCE),
        "MODELYARD_LOG_LEVEL": "ERROR",
    }
    settings = Settings(home=home, serving_url=serving_url)
    migrate(settings.store_url)
    environment = {**os.environ, **given, "PYTHONPATH": str(ROOT)}
    processes = [
        subprocess.Popen([sys.executable, "-m", *args], cwd=home, env=environment) for args in commands
    ]
    store, client = Store(settings.store_url), ServingClient(serving_url)
    try:
        with (
            httpx.Client(base_url=f"http://127.0.0.1:{api_port}", timeout=PATIENCE) as api,
            httpx.Client(base_url=serving_url, timeout=60) as rest,
        ):
            for probe, path in ((rest, "/v1/models/-"), (api, "/healthz")):
                _wait_until_answering(probe, path, processes)
            yield Served(settings, exports, store, client, api, rest)
    finally:
        client.close()
        store.close()
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(60)


def _wait_until_answering(client: httpx.Client, path: str, processes: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + PATIENCE
    while True:
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline, f"{client.base_url}{path} does not answer"
        try:
            client.get(path)
        except httpx.TransportError:
            time.sleep(0.1)
        else:
            return
