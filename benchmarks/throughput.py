"""Training throughput of a job against ``model.fit`` in a plain script: same model, data, batch size, one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from benchmarks.data import FASHION, prepared_home
from benchmarks.running import Running, platform
from benchmarks.table import Row, Table, percentile

EPOCHS = 5
ROUNDS = 2
BATCH = 128
_BARE = {"histogram_freq": 0, "write_images": False, "write_graph": False, "sample_images": 0}


def plain(arrays: Path) -> list[float]:
    """Seconds per epoch of the script."""
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.plain_fit", str(arrays), str(EPOCHS), str(BATCH)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [float(second) for second in json.loads(done.stdout.splitlines()[-1])]


def job(running: Running, tensorboard: Mapping[str, object]) -> list[float]:
    """Seconds per epoch of a job, its evaluation after each epoch included, as in the script."""
    client = running.client()
    request = {**FASHION, "fit": {"epochs": EPOCHS, "batch_size": BATCH}, "tensorboard": tensorboard}
    handle = client.jobs.submit(request)
    page = handle.wait(timeout=600).events(limit=200)
    return [float(event.data["seconds"]) for event in page.items if event.type == "epoch"]


def run(scratch: Path) -> Table:
    home = prepared_home(scratch)
    arrays = home / "cache" / "tfds"
    seconds: dict[str, list[float]] = {
        "plain script": [],
        "job, no TensorBoard extras": [],
        "job, defaults": [],
    }
    with platform(home) as running:
        for _ in range(ROUNDS):  # interleaved, first epochs (tracing) left out
            seconds["plain script"] += plain(arrays)[1:]
            seconds["job, no TensorBoard extras"] += job(running, _BARE)[1:]
            seconds["job, defaults"] += job(running, {})[1:]
    base = percentile(seconds["plain script"], 50)
    rows = [
        Row(
            name,
            f"{percentile(times, 50):.2f} s",
            f"{min(times):.2f} s",
            f"{60_000 / percentile(times, 50):,.0f}",
            f"{base / percentile(times, 50):.2f}",
        )
        for name, times in seconds.items()
    ]
    return Table(
        "Training throughput",
        f"LeNet-5 on 60,000 images, batch {BATCH}, epochs 2 to {EPOCHS} of {ROUNDS} interleaved rounds, evaluation on "
        "10,000 images after each. Target: at least 0.97 of the script.",
        ("what", "epoch, median", "epoch, best", "images/s", "throughput to the script"),
        rows,
    )
