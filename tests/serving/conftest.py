"""A real server process over real HTTP, and the models it serves."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import built_once

ROOT = Path(__file__).parents[2]
WORKING = ("half_plus_two", "mixed", "kinds", "examples", "image", "convolution", "litert", "other_litert")
WARM = ("good", "failing", "streamed", "garbage")  # the examples model, each with other warm-up records


@dataclass
class Server:
    """A running server: its address, a client, its log so far, and its process."""

    process: subprocess.Popen[str]
    url: str
    client: httpx.Client
    log: list[str] = field(default_factory=list)
    request_log: Path | None = None
    grpc: str = ""  # "host:port"

    def predict(self, model: str, body: Any, where: str = "") -> httpx.Response:
        return self.client.post(f"/v1/models/{model}{where}:predict", json=body)

    def versions(self, model: str) -> dict[int, str]:
        """Version -> state; empty for an unknown model."""
        answer = self.client.get(f"/v1/models/{model}").json()
        return {int(one["version"]): one["state"] for one in answer.get("model_version_status", [])}

    def wait_for(self, model: str, version: int, state: str = "AVAILABLE", seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while self.versions(model).get(version) != state:
            assert self.process.poll() is None, "".join(self.log)
            assert time.monotonic() < deadline, "".join(self.log)
            time.sleep(0.02)


def free_port() -> int:
    """A TCP port on loopback that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


StartServer = Callable[..., AbstractContextManager[Server]]
Publish = Callable[..., Path]


@contextmanager
def running_server(*flags: str) -> Iterator[Server]:
    process = subprocess.Popen(
        [sys.executable, "-m", "services.serving", "--rest_api_port=auto", "--port=0", *flags],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stderr is not None
    log: list[str] = []
    address = ""
    for line in process.stderr:
        log.append(line)
        if found := re.search(r"listening on (http://\S+)", line):
            address = found.group(1)
            break
    assert address, "".join(log)
    reader = threading.Thread(target=lambda: log.extend(process.stderr or ()), daemon=True)
    reader.start()
    with httpx.Client(base_url=address, timeout=60) as client:
        yield Server(process, address, client, log)
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise
    finally:
        reader.join(5)
        process.stderr.close()


@pytest.fixture
def grpc_port() -> int:
    """A free port, to be given to a server."""
    return free_port()


@pytest.fixture(scope="session")
def start_server() -> StartServer:
    return running_server


@pytest.fixture(scope="session")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one exported SavedModel per kind; see ``build_models``."""
    return built_once(tmp_path_factory, Path(__file__).with_name("build_models.py"))


@pytest.fixture
def publish(exports: Path) -> Publish:
    """Copy an export to a version folder in one visible step, as a publisher must."""

    def run(kind: str, version_folder: Path, warmup: bytes = b"") -> Path:
        staging = version_folder.parent / f".staging-{version_folder.name}"
        shutil.copytree(exports / kind, staging)
        if warmup:
            (staging / "assets.extra").mkdir()
            (staging / "assets.extra" / "tf_serving_warmup_requests").write_bytes(warmup)
        staging.rename(version_folder)
        return version_folder

    return run


@pytest.fixture(scope="session")
def server(exports: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server with all kinds of models (each version 1), for tests that change nothing."""
    models = tmp_path_factory.mktemp("models")
    for kind in (*WORKING, "without_a_variable"):
        shutil.copytree(exports / kind, models / kind / "1")
    (models / "broken" / "1").mkdir(parents=True)
    for name in WARM:
        extra = shutil.copytree(exports / "examples", models / name / "1") / "assets.extra"
        extra.mkdir()
        if name == "garbage":
            (extra / "tf_serving_warmup_requests").write_bytes(b"no TFRecord at all")
        else:
            shutil.copy(exports / "warmups" / name, extra / "tf_serving_warmup_requests")
    monitoring = tmp_path_factory.mktemp("monitoring") / "monitoring.config"
    monitoring.write_text('prometheus_config { enable: true path: "/monitoring/prometheus/metrics" }')
    port = free_port()
    with running_server(
        f"--models_dir={models}",
        "--max_num_load_retries=0",
        "--rest_api_timeout_in_ms=1500",
        "--num_request_iterations_for_warmup=2",
        f"--monitoring_config_file={monitoring}",
        f"--port={port}",
        "--enable_grpc_healthcheck_service",
        f"--request_log={monitoring.with_name('requests.log')}",
    ) as server:
        for kind in WORKING:
            server.wait_for(kind, 1)
        server.grpc = f"127.0.0.1:{port}"
        server.request_log = monitoring.with_name("requests.log")
        yield server
