"""Memory of the worker and its preloader while jobs are trained one after another."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import psutil

from benchmarks.memory import snapshot
from benchmarks.running import Running
from benchmarks.size import sized
from benchmarks.table import Row, Table, mebibytes

JOBS = sized(50, 6)
SETTLED = sized(10, 2)  # jobs after which everything is loaded that will be
WATCHED = ("worker", "preloader", "API")


def measure(running: Running, scratch: Path) -> Table:
    rng = np.random.default_rng(0)
    data = scratch / "rows.npz"
    np.savez(data, x_train=rng.normal(size=(512, 8)).astype(np.float32), y_train=np.arange(512) % 4)
    request = {
        "model": {"builder": "mlp", "params": {"units": 16}},
        "dataset": {"npz": str(data)},
        "fit": {"epochs": 1, "batch_size": 32},
    }
    launcher = psutil.Process(running.launcher.pid)
    client = running.client()
    seen: dict[int, dict[str, tuple[int, int]]] = {}
    for number in range(1, JOBS + 1):
        client.jobs.submit(request).wait(timeout=120)
        if number in {SETTLED, JOBS}:
            seen[number] = snapshot(launcher)
    rows = []
    for name in WATCHED:
        before, after = seen[SETTLED][name], seen[JOBS][name]
        rows.append(
            Row(
                name,
                f"{mebibytes(before[0])} / {mebibytes(before[1])}",
                f"{mebibytes(after[0])} / {mebibytes(after[1])}",
                f"{(after[1] - before[1]) / (JOBS - SETTLED) / 1024:.0f} KiB",
            )
        )
    return Table(
        f"Training: memory over {JOBS} jobs",
        "Resident / unique memory after jobs in a row, each in a process of its own that is gone when it ends.",
        ("process", f"after job {SETTLED}", f"after job {JOBS}", "growth a job (unique)"),
        rows,
    )
