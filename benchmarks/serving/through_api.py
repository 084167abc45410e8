"""What the API costs: the same predictions asked of the model server itself, and through ``POST /predict``.

One run, one model server: for each load the two ways take turns, so that whatever else the machine does falls on both.
The client shares the machine's cores with both servers.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import httpx
import psutil

from benchmarks.running import free_port
from benchmarks.serving.traffic import Measured, Traffic
from benchmarks.table import Row, Table, milliseconds

MODEL = "lenet"
ROUNDS = 3
SHAPES = ((1, 1), (1, 8), (32, 1), (32, 8))  # images in a request, connections


@dataclass(frozen=True)
class Way:
    """One way to the same model server, as seen by a client."""

    title: str
    traffic: Traffic
    servers: tuple[psutil.Process, ...]  # that work for a request, beside the client

    def processor_seconds(self) -> float:
        return sum(sum(one.cpu_times()[:2]) for one in self.servers)


@dataclass(frozen=True)
class Compared:
    """Medians of some rounds of one load, and the processor seconds that a request took in the servers."""

    measured: Measured
    processor: float


@contextmanager
def api(scratch: Path, serving_url: str, **settings: str) -> Iterator[tuple[str, psutil.Process]]:
    """The API alone, in front of the model server at ``serving_url``; its address and its process.

    ``settings`` become MODELYARD_* variables.
    """
    port = free_port()
    given = {
        "home": str(scratch / "api-home"),
        "port": str(port),
        "serving_url": serving_url,
        "broker_url": "redis://127.0.0.1:1/0",  # none: nobody sends jobs here
        "log_level": "ERROR",
        **settings,
    }
    environment = {**os.environ, **{f"MODELYARD_{key.upper()}": value for key, value in given.items()}}
    migrate = "import sys; from shared.settings import Settings; from shared.store import migrate;"
    migrate += " one = Settings(); one.paths.create(); migrate(one.store_url)"
    subprocess.run([sys.executable, "-c", migrate], env=environment, check=True)
    process = subprocess.Popen([sys.executable, "-m", "services.api"], env=environment)
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                httpx.get(f"{url}/healthz", timeout=5)
                break
            except httpx.TransportError:
                if process.poll() is not None:
                    break
                time.sleep(0.05)
        else:
            raise RuntimeError("the API does not answer")
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait(30)


def ways(
    api_url: str, api_process: psutil.Process, serving_url: str, serving: psutil.Process, file: Path
) -> tuple[Way, ...]:
    """To the server itself, through the API by its own route, and through it by TensorFlow Serving's path."""
    path = f"/v1/models/{MODEL}:predict"
    both = (serving, api_process)
    return (
        Way("directly", Traffic(f"{serving_url}{path}", file), (serving,)),
        Way("`POST /predict`", Traffic(f"{api_url}/predict", file, {"model": MODEL}), both),
        Way(f"`POST {path}` of the API", Traffic(f"{api_url}{path}", file), both),
    )


def compare(
    found: tuple[Way, ...], images: int, connections: int, *, seconds: float, rounds: int = ROUNDS
) -> dict[str, Compared]:
    """One load, by each way in turn, ``rounds`` times; by the ways' titles."""
    seen: dict[str, list[tuple[Measured, float]]] = {way.title: [] for way in found}
    for _ in range(rounds):
        for way in found:
            before = way.processor_seconds()
            one = way.traffic.measure(images, connections, seconds=seconds)
            spent = way.processor_seconds() - before
            seen[way.title].append((one, spent / (one.per_second * seconds)))
    return {title: _middle(results) for title, results in seen.items()}


def _middle(results: list[tuple[Measured, float]]) -> Compared:
    def of(name: str) -> float:
        return median(getattr(one, name) for one, _ in results)

    return Compared(Measured(of("per_second"), of("p50"), of("p99")), median(spent for _, spent in results))


def through_api(
    scratch: Path, serving_url: str, serving: psutil.Process, file: Path, seconds: float
) -> Table:
    """Direct against through the API, for a running model server that has ``MODEL``.

    Args:
        scratch: folder for the API's home.
        serving_url: the model server's address, without a path.
        serving: its process.
        file: rows and answers, as ``benchmarks.serving.model`` writes them.
        seconds: of each single load.
    """
    with api(scratch, serving_url) as (url, process):
        found = ways(url, process, serving_url, serving, file)
        for way in found:
            way.traffic.check()
        rows = []
        for images, connections in SHAPES:
            results = compare(found, images, connections, seconds=seconds)
            direct = results[found[0].title]
            rows += [
                Row(
                    f"{images} image{'s' * (images > 1)}, {connections} connection{'s' * (connections > 1)}",
                    title,
                    f"{one.measured.per_second:.0f}",
                    f"{one.measured.per_second / direct.measured.per_second:.2f}",
                    milliseconds(one.measured.p50),
                    milliseconds(one.measured.p99),
                    f"{(one.processor - direct.processor) * 1e6:.0f} us" if one is not direct else "",
                )
                for title, one in results.items()
            ]
    return Table(
        "Predictions through the API",
        "LeNet, JSON rows: the model server asked directly and through the API, in turns; medians of "
        f"{ROUNDS} rounds. The last column is the processor time that the API takes for a request. Targets: 0.6 with"
        " one image, 0.8 with 32; 99th percentile at most 5 ms over direct.",
        ["load", "way", "requests a second", "against direct", "median", "99th", "the API's own"],
        rows,
    )


def main(models: Path, seconds: float) -> None:
    """``python -m benchmarks.serving.through_api MODELS SECONDS``: this table alone."""
    from benchmarks.serving.servers import ONE, served

    with tempfile.TemporaryDirectory() as scratch, served(ONE, models) as server:
        table = through_api(Path(scratch), server.base, server.processes[0], models / "lenet.npz", seconds)
        print(table.markdown())


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
