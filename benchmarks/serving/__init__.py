"""Predictions a second: the model server, the same without LiteRT, and FastAPI with ``model(x)``.

Also how long they take while versions load.

One run, the servers one after the other on an otherwise idle machine, answers checked before anything is timed. The
client shares the machine's cores with the server.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from benchmarks.serving.loading import while_loading
from benchmarks.serving.servers import KINDS, Kind, served
from benchmarks.serving.traffic import Traffic
from benchmarks.size import sized
from benchmarks.table import Row, Table, Tables, mebibytes, milliseconds

SECONDS = sized(3.0, 0.5)
SHAPES = ((1, 1), (1, 8), (32, 1), (32, 8))  # images in a request, connections


def run(scratch: Path) -> Tables:
    models = scratch / "models"
    subprocess.run([sys.executable, "-m", "benchmarks.serving.model", str(models)], check=True)
    rates: dict[Kind, dict[tuple[int, int], float]] = {}
    rows = []
    for kind in KINDS:
        folder = scratch / kind.name
        shutil.copytree(models, folder)
        kind.prepare(folder)
        with served(kind, folder) as server:
            traffic = Traffic(server.url, folder / "requests.npz")
            traffic.check()
            measured = {shape: traffic.measure(*shape, seconds=SECONDS) for shape in SHAPES}
            rates[kind] = {shape: one.per_second for shape, one in measured.items()}
            base = rates[KINDS[0]]
            cells = (
                f"{one.per_second:.0f} ({one.per_second / base[shape]:.1f}x), {milliseconds(one.p99)}"
                for shape, one in measured.items()
            )
            rows.append(Row(kind.title, *cells, f"{server.cold_seconds:.1f} s", mebibytes(server.memory())))
    speed = Table(
        "Predictions",
        "LeNet on 28x28x1 as JSON rows: requests a second, as multiples of the first row, and the 99th percentile. "
        "Cold start: from the command to the first answer; memory after all of it.",
        [
            "server",
            *(f"{n} image{'s' * (n > 1)}, {c} connection{'s' * (c > 1)}" for n, c in SHAPES),
            "cold",
            "memory",
        ],
        rows,
    )
    return Tables([speed, while_loading(scratch, models)])
