"""The servers that are compared, each as a process of its own on a free port."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

_PATIENCE = 180.0


@dataclass(frozen=True)
class Kind:
    """How one kind of server is started on a port, with a folder that ``prepare`` may have changed."""

    name: str
    title: str
    command: Callable[[Path, int], Sequence[str]]
    prepare: Callable[[Path], None] = lambda _: None


@dataclass
class Server:
    """A server that answers."""

    url: str
    process: psutil.Process
    cold_seconds: float

    def memory(self) -> float:
        """Resident bytes."""
        return float(self.process.memory_info().rss)


def _own(folder: Path, port: int) -> Sequence[str]:
    return (sys.executable, "-m", "services.serving", f"--models_dir={folder}", f"--rest_api_port={port}")


def _fastapi(_: Path, port: int) -> Sequence[str]:
    return (
        sys.executable, "-m", "uvicorn", "benchmarks.serving.fastapi_app:app",
        f"--port={port}", "--log-level=warning",
    )  # fmt: skip


def _without_litert(folder: Path) -> None:
    for extra in folder.glob("*/*/assets.extra"):
        shutil.rmtree(extra)


KINDS = (
    Kind("fastapi", "FastAPI, `model(x)`", _fastapi),
    Kind("tensorflow", "model server, LiteRT taken away", _own, _without_litert),
    Kind("litert", "model server", _own),
)


@contextmanager
def served(kind: Kind, folder: Path) -> Iterator[Server]:
    """The server, as soon as it has answered its first prediction."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    environment: Mapping[str, str] = {**os.environ, "MODEL": str(folder), "TF_CPP_MIN_LOG_LEVEL": "2"}
    began = time.monotonic()
    process = subprocess.Popen(kind.command(folder, port), env=environment, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}/v1/models/lenet:predict"
    try:
        body = {"instances": [[[[0.0]] * 28] * 28]}
        while not _answers(url, body):
            if process.poll() is not None or time.monotonic() - began > _PATIENCE:
                raise RuntimeError(f"{kind.title} does not answer")
            time.sleep(0.02)
        yield Server(url, psutil.Process(process.pid), time.monotonic() - began)
    finally:
        process.terminate()
        process.wait(30)


def _answers(url: str, body: object) -> bool:
    try:
        return httpx.post(url, json=body, timeout=30).status_code == 200
    except httpx.TransportError:
        return False
