"""From ``POST /jobs`` to the end of the first training step: warm starts against fresh ones, data prepared before."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.data import FASHION, prepared_home
from benchmarks.running import Running, platform
from benchmarks.table import Row, Table, percentile

WARM_JOBS = 20
FRESH_JOBS = 4


def one(running: Running) -> float:
    """Seconds for one job, which is cancelled after its first epoch's start."""
    client = running.client()
    sent = time.time()
    job = client.jobs.submit({**FASHION, "fit": {"epochs": 50}})
    try:
        while True:
            view = job.refresh().view
            first = view.run.get("timings", {}).get("first_step")
            if first is not None:
                return float(view.run["trainer_started_at"] + first - sent)
            if view.error is not None:
                raise RuntimeError(view.error.message)
            time.sleep(0.5)  # looking more often would slow down what is measured
    finally:
        job.cancel().wait(timeout=60, check=False)


def run(scratch: Path) -> Table:
    home = prepared_home(scratch)
    results: dict[str, list[float]] = {}
    for name, warm, count in (("warm", "true", WARM_JOBS), ("fresh process", "false", FRESH_JOBS)):
        with platform(home, warm=warm) as running:
            one(running)  # the first one fills the page cache
            results[name] = [one(running) for _ in range(count)]
    base = percentile(results["fresh process"], 50)
    rows = [
        Row(
            name,
            str(len(times)),
            f"{percentile(times, 50):.2f} s",
            f"{percentile(times, 95):.2f} s",
            f"{max(times):.2f} s",
            f"{percentile(times, 50) / base:.2f}",
        )
        for name, times in results.items()
    ]
    return Table(
        "Job start",
        "From `POST /jobs` to the end of the first training step, LeNet-5 on Fashion-MNIST prepared before, one job "
        "after another. Target: 95th percentile below 1 s warm.",
        ("start", "jobs", "median", "p95", "slowest", "to fresh"),
        rows,
    )
