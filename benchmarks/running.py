"""A whole platform on a home of its own, started as a person would start it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from modelyard import Client


@dataclass(frozen=True)
class Running:
    """A platform that answers."""

    url: str
    home: Path
    launcher: subprocess.Popen[bytes]

    def client(self) -> Client:
        return Client(self.url)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def platform(home: Path, **settings: str) -> Iterator[Running]:
    """``modelyard up`` on ``home`` until the block ends; ``settings`` become MODELYARD_* variables."""
    port = free_port()
    home.mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, **{f"MODELYARD_{key.upper()}": value for key, value in settings.items()}}
    log = (home.parent / f"{home.name}.log").open("ab")
    launcher = subprocess.Popen(
        [sys.executable, "-m", "modelyard", "up", "--home", str(home), "--port", str(port)],
        env=environment, stdout=log, stderr=log, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    try:
        _wait_ready(url, launcher)
        yield Running(url, home, launcher)
    finally:
        launcher.send_signal(signal.SIGINT)
        launcher.wait(60)
        log.close()


def _wait_ready(url: str, launcher: subprocess.Popen[bytes], seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if launcher.poll() is not None:
            raise RuntimeError(f"modelyard up ended with {launcher.returncode}")
        try:
            ready = httpx.get(f"{url}/readyz", timeout=2).json()
            workers = httpx.get(f"{url}/workers", timeout=2).json()["items"]
        except (httpx.TransportError, ValueError, KeyError):
            ready, workers = {}, []
        if ready.get("status") == "ok" and any("devices" in worker["info"] for worker in workers):
            return
        time.sleep(0.2)
    raise RuntimeError("the platform did not become ready")
