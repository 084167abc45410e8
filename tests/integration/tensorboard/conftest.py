"""TensorBoard as the platform starts it, on a folder of runs."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.conftest import free_port

ROOT = Path(__file__).parents[3]


@dataclass
class Board:
    url: str
    runs: Path
    process: subprocess.Popen[bytes]
    seconds: float

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}/tensorboard{path}", timeout=60)

    def post(self, path: str, body: dict[str, Any]) -> Any:
        answer = httpx.post(f"{self.url}/tensorboard{path}", json=body, timeout=60)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def scalars(self, run: str) -> list[float]:
        answer = self.get(f"/data/plugin/scalars/scalars?run={run}&tag=loss")
        return [value for _, _, value in answer.json()] if answer.is_success else []


@contextlib.contextmanager
def board_on(runs: Path) -> Iterator[Board]:
    port = free_port()
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "services.tensorboard", "--logdir", str(runs), "--port", str(port)], cwd=ROOT
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            assert process.poll() is None
            assert time.monotonic() - began < 60
            try:
                httpx.get(f"{url}/tensorboard/data/environment", timeout=60).raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.05)
        yield Board(url, runs, process, time.monotonic() - began)
    finally:
        process.kill()
        process.wait()
