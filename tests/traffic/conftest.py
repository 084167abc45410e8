"""The API and the model server as real processes, and a caller that never stops asking."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from shared.store import Store, migrate
from tests.builders import published
from tests.conftest import built_once, free_port

ROOT = Path(__file__).parents[2]
REQUESTS_PER_SECOND = 200
CALLERS = 4


@dataclass
class Platform:
    """What runs, with a client for its API."""

    home: Path
    exports: Path
    url: str
    serving_url: str
    store: Store
    http: httpx.Client

    def publish(self, model: str, kind: str) -> int:
        """Put the export ``kind`` under the next version number, as a worker does, and wait until it is loaded."""
        version = published(self.store, self.exports / kind, self.home / "models" / model)
        self.wait_for(model, version, "AVAILABLE")
        return version

    def state(self, model: str, version: int) -> str | None:
        """As the model server says; None when it does not know the version."""
        answer = httpx.get(f"{self.serving_url}/v1/models/{model}").json()
        states = {int(item["version"]): item["state"] for item in answer.get("model_version_status", [])}
        return states.get(version)

    def wait_for(self, model: str, version: int, state: str, seconds: float = 60) -> None:
        """Until the model server says ``state``."""
        deadline = time.monotonic() + seconds
        while self.state(model, version) != state:
            assert time.monotonic() < deadline, f"{model} {version} is {self.state(model, version)}"
            time.sleep(0.05)

    def put(self, model: str, label: str, **route: Any) -> httpx.Response:
        """Set a label."""
        answer = self.http.put(f"/models/{model}/labels/{label}", json=route)
        assert answer.status_code == 200, answer.text
        return answer

    @contextmanager
    def asked(self, model: str, label: str | None) -> Iterator[Calls]:
        """Ask ``model`` 200 times a second within the block, by both of the API's ways."""
        calls = Calls(self.url, model, label)
        threads = [threading.Thread(target=calls.run, args=(number,)) for number in range(CALLERS)]
        for thread in threads:
            thread.start()
        try:
            yield calls
        finally:
            calls.stop.set()
            for thread in threads:
                thread.join(60)


@dataclass
class Calls:
    """What the callers got: how often each version answered, and every failure."""

    url: str
    model: str
    label: str | None
    stop: threading.Event = field(default_factory=threading.Event)
    answers: Counter[int] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    by_caller: dict[int, set[int]] = field(default_factory=dict)

    def run(self, number: int) -> None:
        body: dict[str, Any] = {"instances": [[1.0]]}
        own = {**body, "model": self.model, **({"label": self.label} if self.label else {})}
        where = f"/labels/{self.label}" if self.label else ""
        mine = self.by_caller.setdefault(number, set())
        pause, due = CALLERS / REQUESTS_PER_SECOND, time.monotonic()
        asks = (
            ("/predict", json.dumps(own)),
            (f"/v1/models/{self.model}{where}:predict", json.dumps(body)),
        )
        headers = {"X-Request-Key": f"caller-{number}", "Content-Type": "application/json"}
        # the standard library's client: it costs a fraction of httpx's time, which those who answer need as well
        address = urlsplit(self.url)
        connection = HTTPConnection(str(address.hostname), address.port, timeout=30)
        for path, content in cycle(asks):
            if self.stop.is_set():
                break
            try:
                connection.request("POST", path, content, headers)
                answer = connection.getresponse()
                told = answer.read()
            except (HTTPException, OSError) as error:
                self.failures.append(repr(error))
                connection.close()
                continue
            if answer.status != 200:
                self.failures.append(f"{answer.status} {told.decode()}")
            else:
                version = int(answer.headers["x-model-version"])
                self.answers[version] += 1
                mine.add(version)
            due = max(due + pause, time.monotonic() - 1)
            time.sleep(max(0.0, due - time.monotonic()))
        connection.close()

    def wait(self, enough: int, version: int | None = None) -> None:
        """Until that many more requests were answered, by ``version`` or by any."""

        def seen() -> int:
            return self.answers[version] if version is not None else self.answers.total()

        target, deadline = seen() + enough, time.monotonic() + 60
        while seen() < target:
            assert time.monotonic() < deadline, (self.answers, self.failures[:3])
            time.sleep(0.02)


@pytest.fixture(scope="session")
def version_exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one exported SavedModel per kind; see ``build_versions``."""
    return built_once(tmp_path_factory, Path(__file__).with_name("build_versions.py"))


@pytest.fixture(scope="module", params=["ours", "as tensorflow/serving"])
def platform(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, version_exports: Path
) -> Iterator[Platform]:
    """With our server finding models in a folder, behind two API processes; and with one that knows a ``models.config``
    alone and reads it once a second, which is all that TensorFlow Serving can do.
    """
    home = tmp_path_factory.mktemp("home")
    models = home / "models"
    models.mkdir()
    config = models / "models.config"
    ours = request.param == "ours"
    port, serving_port = free_port(), free_port()
    flags = [f"--rest_api_port={serving_port}", "--port=0", f"--model_config_file={config}"]
    flags += ["--max_num_load_retries=0", "--load_retry_interval_micros=100000"]
    if ours:
        flags += [f"--models_dir={models}", "--model_config_file_poll_wait_seconds=0.3"]
    else:
        config.write_text("model_config_list { }")
        flags += ["--model_config_file_poll_wait_seconds=1"]
    settings = {
        "MODELYARD_HOME": str(home),
        "MODELYARD_BROKER_URL": "redis://127.0.0.1:1/0",
        "MODELYARD_SERVING_URL": f"http://127.0.0.1:{serving_port}",
        "MODELYARD_SERVING_FINDS_MODELS": str(ours),
        "MODELYARD_PORT": str(port),
        "MODELYARD_API_PROCESSES": "2" if ours else "1",
        "MODELYARD_SWEEP_SECONDS": "0.3",
        "MODELYARD_LOG_LEVEL": "ERROR",
    }
    address = f"sqlite:///{home}/modelyard.db"
    migrate(address)
    environment = {**os.environ, **settings, "PYTHONPATH": str(ROOT)}
    commands = (["services.serving", *flags], ["services.api"])
    processes = [
        subprocess.Popen([sys.executable, "-m", *args], cwd=home, env=environment) for args in commands
    ]
    url, serving_url = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{serving_port}"
    store = Store(address)
    with httpx.Client(base_url=url, timeout=60) as http:
        try:
            for probe in (f"{serving_url}/healthz", f"{url}/healthz"):
                _wait_until_answering(probe, processes)
            yield Platform(home, version_exports, url, serving_url, store, http)
        finally:
            store.close()
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(30)


def _wait_until_answering(url: str, processes: list[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + 60
    while True:
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < deadline
        try:
            if httpx.get(url).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
