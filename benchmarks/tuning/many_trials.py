"""A thousand trivial trials through the real queue: throughput, and the time of a step as the study grows."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.running import platform
from benchmarks.size import sized
from benchmarks.table import Row, Table, milliseconds, percentile
from modelyard.client import Job

TRIALS = sized(1000, 40)
SLOTS = 2
PARTS = 4
LIMIT_SECONDS = 420
LOOKS = 10


def measure(home: Path, scratch: Path) -> Table:
    data = scratch / "trivial.npz"
    rng = np.random.default_rng(0)
    np.savez(data, x_train=rng.normal(size=(64, 4)).astype(np.float32), y_train=np.arange(64) % 2)
    with platform(home, slots=str(SLOTS), allowed_paths=str(scratch)) as running:
        job = running.client().jobs.submit(
            {
                "kind": "tune",
                "base": {
                    "model": {"builder": "mlp", "params": {"units": 4}},
                    "dataset": {"npz": str(data)},
                    "fit": {"epochs": 1, "batch_size": 64},
                },
                "space": {"fit.learning_rate": {"loguniform": [1e-4, 1e-1]}},
                "sampler": "random",
                "objective": {"metric": "loss"},
                "max_trials": TRIALS,
                "parallel": 2 * SLOTS,
                "timeout_seconds": LIMIT_SECONDS,
            }
        )
        job.wait(timeout=LIMIT_SECONDS + 60, check=False)
        began = job.view.created_at.timestamp()
        first_page, last_page = _pages(job)
        standing = _median(job.study)
    told = _told(home, job.id)
    rows = []
    for part in range(PARTS):
        first, last = part * len(told) // PARTS, (part + 1) * len(told) // PARTS
        if first == last:
            continue
        since = began if first == 0 else told[first - 1][0]
        steps = [seconds for _, seconds in told[first:last]]
        rows.append(
            Row(
                f"{first + 1} to {last}",
                f"{(last - first) / (told[last - 1][0] - since):.2f}",
                milliseconds(percentile(steps, 50)),
                milliseconds(percentile(steps, 95)),
            )
        )
    return Table(
        f"Tuning: {len(told):,} trivial trials",
        f"One epoch of one step each, {SLOTS} slots on one machine, random search, through the broker, the store and a "
        "process of its own each. A step begins when a trial's job has ended, tells the optimiser, asks for the next "
        f"trial and stores both. With all {len(told):,} trials there, a page of 50 by value takes "
        f"{milliseconds(first_page)} at the beginning and {milliseconds(last_page)} at the end, and how the study "
        f"stands {milliseconds(standing)}.",
        ("trials", "trials/s", "step, median", "step, 95th percentile"),
        rows,
    )


def _told(home: Path, study: str) -> list[tuple[float, float]]:
    """(when, seconds since its job had ended) that the optimiser was told of each trial, in that order."""
    query = """
        SELECT trials.told_at, trials.told_at - jobs.finished_at FROM trials JOIN jobs ON jobs.id = trials.job_id
        WHERE trials.study_id = ? AND trials.told_at IS NOT NULL ORDER BY trials.told_at
    """
    with closing(sqlite3.connect(home / "modelyard.db")) as connection:
        return list(connection.execute(query, (study,)))


def _pages(job: Job) -> tuple[float, float]:
    """Seconds of the first page by value, and of one at the end."""
    after, last = None, None
    while True:
        page = job.trials(sort="value", limit=200, after=after)
        if not page.has_more:
            break
        last, after = after, page.items[-1].number
    return (
        _median(lambda: job.trials(sort="value", limit=50)),
        _median(lambda: job.trials(sort="value", limit=50, after=last)),
    )


def _median(call: Callable[[], Any]) -> float:
    times = []
    for _ in range(LOOKS):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return percentile(times, 50)
