"""The servers that are compared, each as processes of its own on a free port."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil

from benchmarks.running import free_port
from benchmarks.serving.tools import PEERS, peer
from benchmarks.serving.traffic import BARE, JSON, NPY, V2, Wire, ask

_PATIENCE = 300.0
BOTH = ("lenet", "dense")


@dataclass(frozen=True)
class Kind:
    """How one kind of server is started on ``port`` with a folder of its own that ``prepare`` may have changed.

    ``copies``: how often the command is started. ``wires``: what it takes, by "json" and "npy".
    """

    name: str
    title: str
    command: Callable[[Path, int], Sequence[str]]
    copies: int = 1
    prepare: Callable[[Path], None] = lambda _: None
    path: str = "/v1/models/{model}:predict"
    wires: Mapping[str, Wire] = field(default_factory=lambda: {"json": JSON})
    models: Sequence[str] = BOTH
    computes: bool = True  # else its answers are not checked, for they are always the same


@dataclass
class Server:
    """A server that answers."""

    base: str
    kind: Kind
    processes: list[psutil.Process]
    cold_seconds: float

    def url(self, model: str) -> str:
        return self.base + self.kind.path.format(model=model)

    def memory(self) -> float:
        """Resident bytes of all its processes (what they share is counted in each)."""
        family = [one for process in self.processes for one in (process, *process.children(recursive=True))]
        return float(sum(one.memory_info().rss for one in family))


def _own(*more: str) -> Callable[[Path, int], Sequence[str]]:
    program = (sys.executable, "-m", "services.serving")
    return lambda folder, port: (*program, f"--models_dir={folder}", f"--rest_api_port={port}", *more)


def _app(name: str) -> Callable[[Path, int], Sequence[str]]:
    return lambda _, port: (sys.executable, "-m", "benchmarks.serving.apps", name, str(port))


def _mlserver(folder: Path, port: int) -> Sequence[str]:
    model = shutil.copytree(PEERS / "mlserver_model", folder / "mlserver", dirs_exist_ok=True)
    (model / "settings.json").write_text(
        f'{{"host": "127.0.0.1", "http_port": {port}, "grpc_port": {free_port()}, "metrics_port": {free_port()},'
        ' "parallel_workers": 2, "debug": false}'
    )
    return (str(peer("mlserver") / "mlserver"), "start", str(model))


def _mosec(_: Path, port: int) -> Sequence[str]:
    return (
        str(peer("mosec") / "python"),
        str(PEERS / "mosec_app.py"),
        "--address=127.0.0.1",
        f"--port={port}",
    )


def _bentoml(_: Path, port: int) -> Sequence[str]:
    program = str(peer("bentoml") / "bentoml")
    return (
        program,
        "serve",
        "bentoml_app:Lenet",
        "--working-dir",
        str(PEERS),
        "--host=127.0.0.1",
        f"--port={port}",
    )


def _tensorflow_serving(folder: Path, port: int) -> Sequence[str]:
    config = folder / "all.config"
    models = (
        f"config {{ name: '{m}' base_path: '{folder / m}' model_platform: 'tensorflow' }}" for m in BOTH
    )
    config.write_text(f"model_config_list {{ {' '.join(models)} }}")
    return (
        "tensorflow_model_server", f"--rest_api_port={port}", f"--port={free_port()}", f"--model_config_file={config}",
    )  # fmt: skip


def _without_litert(folder: Path) -> None:
    for extra in folder.glob("*/*/assets.extra"):
        shutil.rmtree(extra)


BINARY = {"json": JSON, "npy": NPY}
FASTAPI = Kind("fastapi", "FastAPI, `model(x)`", _app("plain"))
TUNED = Kind("tuned", "the same tuned, 2 processes", _app("tuned"), 2)
WITHOUT = Kind(
    "tensorflow",
    "model server, LiteRT taken away, 2 of it",
    _own("--rest_api_reuse_port"),
    2,
    _without_litert,
    wires=BINARY,
)
OWN = Kind("litert", "**model server**", _own(), wires=BINARY)
ONE = Kind("one", "model server, `--rest_api_processes=0`", _own("--rest_api_processes=0"), wires=BINARY)
LENET = ("lenet",)
KINDS = (
    FASTAPI,
    TUNED,
    Kind(
        "mlserver",
        "MLServer, V2 JSON",
        _mlserver,
        path="/v2/models/lenet/infer",
        wires={"json": V2},
        models=LENET,
    ),
    Kind("mosec", "mosec", _mosec, path="/inference", models=LENET),
    Kind("bentoml", "BentoML", _bentoml, path="/predict", wires={"json": BARE}, models=LENET),
    Kind("echo", "echo: orjson parses, a constant answers; 2 processes", _app("echo"), 2, computes=False),
    Kind(
        "floor",
        "floor: the same HTTP, a constant answers; 2 processes",
        _app("floor"),
        2,
        computes=False,
    ),
    WITHOUT,
    OWN,
    ONE,
)
TF_SERVING = Kind("tf_serving", "TensorFlow Serving", _tensorflow_serving)


def kinds() -> Sequence[Kind]:
    """All of them; TensorFlow Serving where its program is on PATH."""
    return (*KINDS, TF_SERVING) if shutil.which("tensorflow_model_server") else KINDS


@contextmanager
def served(kind: Kind, folder: Path) -> Iterator[Server]:
    """The server, as soon as it has answered its first prediction."""
    port = free_port()
    environment = {
        **os.environ,
        "MODELS": str(folder),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "BENTOML_DO_NOT_TRACK": "1",
    }
    if kind.name in ("mosec", "bentoml", "mlserver"):
        environment.pop("PYTHONPATH", None)
        environment["PATH"] = f"{peer(kind.name)}{os.pathsep}{environment['PATH']}"
    command = kind.command(folder, port)
    log = folder / "server.log"
    began = time.monotonic()
    with log.open("wb") as output:
        started = [
            subprocess.Popen(command, env=environment, stdout=output, stderr=output, cwd=_cwd(kind, folder))
            for _ in range(kind.copies)
        ]
    server = Server(f"http://127.0.0.1:{port}", kind, [psutil.Process(one.pid) for one in started], 0.0)
    try:
        _wait(server, began, lambda: any(one.poll() is not None for one in started), log)
        yield server
    finally:
        _end(server.processes)


def _end(processes: Sequence[psutil.Process]) -> None:
    """Ask the processes to end, and end what is left of them and of those that they started."""
    family = [one for one in processes if one.is_running()]
    for process in list(family):
        family += process.children(recursive=True)
        process.terminate()
    _, left = psutil.wait_procs(family, timeout=10)
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=10)


def _cwd(kind: Kind, folder: Path) -> Path | None:
    return folder if kind.name in ("mosec", "bentoml", "mlserver") else None


def _wait(server: Server, began: float, ended: Callable[[], bool], log: Path) -> None:
    while not all(_answers(server, model) for model in server.kind.models):
        if ended() or time.monotonic() - began > _PATIENCE:
            raise RuntimeError(f"{server.kind.title} does not answer:\n{log.read_text()[-3000:]}")
        time.sleep(0.02)
    server.cold_seconds = time.monotonic() - began
    # each of several processes must have loaded; a connection goes to one of them
    for model in server.kind.models:
        streak = 0
        while streak < 12 * server.kind.copies:
            streak = streak + 1 if _answers(server, model) else 0


def _answers(server: Server, model: str) -> bool:
    shape = (1, 28, 28, 1) if model == "lenet" else (1, 784)
    zeros: Any = np.zeros(shape, np.float32)
    try:
        return len(ask(server.url(model), server.kind.wires["json"], zeros)) == 1
    except (httpx.HTTPError, KeyError):
        return False
