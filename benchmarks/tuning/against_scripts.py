"""Wall time to the grid's best validation accuracy: a sequential grid, KerasTuner's Hyperband, a study on two slots."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.running import platform
from benchmarks.table import Row, Table, percentile
from benchmarks.tuning import space
from modelyard import Client

WORKERS = 2
LIMIT_SECONDS = 900


@dataclass
class Side:
    """One side: its trials in the order in which they reached their best accuracy."""

    seconds: float
    reached: list[tuple[float, float]]  # (seconds since the start, accuracy)
    epochs: int
    trials: int

    def best(self) -> float:
        return max(accuracy for _, accuracy in self.reached)

    def time_to(self, accuracy: float) -> float | None:
        return min((at for at, value in self.reached if value >= accuracy), default=None)


def measure(home: Path, scratch: Path) -> Table:
    arrays = home / "cache" / "tfds"
    grid = script("grid", arrays)
    tuner = script("keras_tuner", arrays)
    ours, overheads = study(home)
    goal = grid.best()
    whole = grid.seconds
    rows = []
    for name, side in (
        ("grid, a script", grid),
        ("KerasTuner, Hyperband", tuner),
        (f"study, TPE and ASHA, {WORKERS} slots", ours),
    ):
        found = side.time_to(goal)
        rows.append(
            Row(
                name,
                str(side.trials),
                str(side.epochs),
                f"{side.seconds:.0f} s",
                f"{side.best():.4f}",
                "not reached" if found is None else f"{found:.0f} s",
                "" if found is None else f"{found / whole:.2f}",
            )
        )
    return Table(
        "Tuning: against a grid and KerasTuner",
        f"A dense network on {space.TRAIN_ROWS:,} images of Fashion-MNIST, validated on {space.TEST_ROWS:,}; units, "
        f"optimizer, learning rate and dropout; each side may train {space.BUDGET} epochs, as the grid does. Starts of "
        "programs count for the scripts, submission for the study. Target: the grid's best accuracy in at most half of "
        f"the grid's time. Overhead of a trial on its slot, beyond building, training and validating (target: below "
        f"0.5 s): median {percentile(overheads, 50):.2f} s, 90th percentile {percentile(overheads, 90):.2f} s.",
        ("side", "trials", "epochs", "took", "best accuracy", "to the grid's best", "to the grid's time"),
        rows,
    )


def script(kind: str, arrays: Path) -> Side:
    began = time.time()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.tuning.scripts", kind, str(arrays)],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"},
        capture_output=True, text=True, timeout=LIMIT_SECONDS, check=True,
    )  # fmt: skip
    seconds = time.time() - began
    trials = json.loads(done.stdout.splitlines()[-1])
    reached = [(trial["at"] - began, trial["accuracy"]) for trial in trials]
    return Side(seconds, reached, sum(trial["epochs"] for trial in trials), len(trials))


def study(home: Path) -> tuple[Side, list[float]]:
    """The study, and the overhead of each of its trials in seconds."""
    with platform(home, slots=str(WORKERS)) as running:
        client = running.client()
        job = client.jobs.submit(
            space.study(
                sampler={"name": "tpe", "startup_trials": 8},
                pruner={"name": "asha", "min_epochs": 1, "reduction_factor": 3},
                parallel=WORKERS,
                max_trials=space.BUDGET,
                max_failures=None,
            )
        )
        began = job.view.created_at.timestamp()
        spent = 0
        while spent < space.BUDGET and not job.refresh().state.terminal:
            time.sleep(1.0)
            spent = epochs_of(client, job.id)
        seconds = time.time() - began
        job.cancel()
        job.wait(timeout=120, check=False)
        trials = all_trials(job)
        reached = []
        for trial in trials:
            finite = [(value, epoch) for epoch, value in trial.intermediate if value is not None]
            if finite:
                value, epoch = max(finite, key=lambda pair: (pair[0], -pair[1]))
                reached.append((when(client, trial.job_id, epoch) - began, value))
        epochs = sum(trial.intermediate[-1][0] for trial in trials if trial.intermediate)
        ended = [trial for trial in trials if trial.status in ("complete", "pruned")]
        return Side(seconds, reached, epochs, len(ended)), overheads(client, ended)


def all_trials(job: Any) -> list[Any]:
    found: list[Any] = []
    after = None
    while True:
        page = job.trials(limit=200, after=after)
        found += page.items
        if not page.has_more:
            return found
        after = found[-1].number


def epochs_of(client: Client, job_id: str) -> int:
    return sum(
        trial.intermediate[-1][0] for trial in all_trials(client.jobs.get(job_id)) if trial.intermediate
    )


def when(client: Client, job_id: str, epoch: int) -> float:
    """When a trial's epoch ended."""
    events = client.jobs.get(job_id).events(limit=200).items
    return next(e.at.timestamp() for e in events if e.type == "epoch" and e.data["epoch"] == epoch)


def overheads(client: Client, trials: list[Any]) -> list[float]:
    """Per trial, but the first on each slot: from the end of the slot's trial before to its own end, less the time
    from the building of its model to the end of its last epoch.
    """
    spans = []
    for trial in trials:
        events = client.jobs.get(trial.job_id).events(limit=200).items
        building = next((e for e in events if e.type == "stage" and e.data["stage"] == "building"), None)
        last = next((e for e in reversed(events) if e.type == "epoch"), None)
        if building is not None and last is not None:
            worked = (last.at - building.at).total_seconds()
            spans.append((trial.started_at.timestamp(), trial.finished_at.timestamp(), worked))
    spans.sort()
    found, free = [], sorted(end for _, end, _ in spans)
    for began, end, worked in spans:
        before = [moment for moment in free if moment <= began]
        if before:
            free.remove(before[-1])
            found.append(end - before[-1] - worked)
    return found or [end - began - worked for began, end, worked in spans]
