"""Seconds an epoch, and to a test accuracy of 0.88 on Fashion-MNIST: scripts and jobs, one after the other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.data import FASHION, ROWS, TEST_ROWS
from benchmarks.running import Running
from benchmarks.size import sized
from benchmarks.table import Row, Table, percentile

EPOCHS = sized(10, 2)
ROUNDS = sized(3, 1)
BATCH = 100
ACCURACY = 0.88
BARE = {"histogram_freq": 0, "write_images": False, "write_graph": False, "sample_images": 0}


@dataclass
class Measured:
    """What is known of one side, over all rounds."""

    seconds: list[float] = field(default_factory=list)  # of epochs but the first, which traces
    training: list[float] = field(default_factory=list)  # sum of epochs' seconds up to the accuracy
    start: list[float] = field(
        default_factory=list
    )  # from the command, or from POST /jobs, up to the accuracy
    best: list[float] = field(default_factory=list)

    def add(self, epochs: list[dict[str, float]], began: float) -> None:
        self.seconds += [epoch["seconds"] for epoch in epochs[1:]]
        self.best.append(max(epoch["accuracy"] for epoch in epochs))
        for index, epoch in enumerate(epochs):
            if epoch["accuracy"] >= ACCURACY:
                self.training.append(sum(each["seconds"] for each in epochs[: index + 1]))
                self.start.append(epoch["at"] - began)
                break


def script(kind: str, arrays: Path, seed: int) -> tuple[list[dict[str, float]], float]:
    """Epochs of a script, and when it was started."""
    with tempfile.TemporaryDirectory() as logs:
        began = time.time()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.training.script", kind, str(arrays), logs, str(EPOCHS), str(BATCH),
             str(seed)],
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "2"}, capture_output=True, text=True, check=True,
        )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1]), began


def job(running: Running, seed: int, **parts: Mapping[str, Any]) -> tuple[list[dict[str, float]], float]:
    """Epochs of a job, evaluation included as in the scripts, and when it was submitted."""
    request = {**FASHION, **parts, "fit": {"epochs": EPOCHS, "seed": seed, **parts.get("fit", {})}}
    began = time.time()
    handle = running.client().jobs.submit(request)
    page = handle.wait(timeout=1200).events(limit=200)
    return [
        {
            "at": event.at.timestamp(),
            "seconds": float(event.data["seconds"]),
            "accuracy": float(event.data["metrics"]["val_accuracy"]),
        }
        for event in page.items
        if event.type == "epoch"
    ], began


def measure(running: Running) -> Iterator[Table]:
    arrays = running.home / "cache" / "tfds"
    sides: dict[str, Callable[[int], tuple[list[dict[str, float]], float]]] = {
        "textbook's script": lambda seed: script("textbook", arrays, seed),
        "plain `fit`": lambda seed: script("plain", arrays, seed),
        "job, settings of plain `fit`": lambda seed: job(
            running, seed, tensorboard=BARE, fit={"batch_size": BATCH}
        ),
        "job, settings of the textbook": lambda seed: job(running, seed, fit={"batch_size": BATCH}),
        "job, defaults": lambda seed: job(running, seed),
    }
    found = {name: Measured() for name in sides}
    for number in range(ROUNDS):
        for name, once in sides.items():
            epochs, began = once(98 + number)
            found[name].add(epochs, began)
    yield _epochs(found)
    yield _accuracy(found)


def _epochs(found: dict[str, Measured]) -> Table:
    bases = [percentile(found[name].seconds, 50) for name in ("textbook's script", "plain `fit`")]
    rows = [
        Row(
            name,
            f"{percentile(one.seconds, 50):.2f} s",
            f"{min(one.seconds):.2f} s",
            *(f"{base / percentile(one.seconds, 50):.2f}" for base in bases),
        )
        for name, one in found.items()
    ]
    return Table(
        "Training: time an epoch",
        f"LeNet-5 on {ROWS:,} images, epochs 2 to {EPOCHS} of {ROUNDS} interleaved rounds, evaluation on {TEST_ROWS:,} "
        f"images after each; batch {BATCH}, the defaults' is 128. Target: 0.97 of plain `fit` at its settings.",
        ("what", "epoch, median", "epoch, best", "speed to the textbook's", "speed to plain `fit`"),
        rows,
    )


def _accuracy(found: dict[str, Measured]) -> Table:
    base = found["textbook's script"]
    rows = [
        Row(
            name,
            f"{len(one.start)} of {ROUNDS}",
            *_times(one.training, base.training),
            *_times(one.start, base.start),
            f"{max(one.best):.4f}",
        )
        for name, one in found.items()
    ]
    return Table(
        f"Training: time to {ACCURACY} test accuracy",
        f"Median over rounds of seeds 98, 99, ... (at most {EPOCHS} epochs). Training: epochs and evaluation alone. "
        "From the start: from the command, or from `POST /jobs`. Target: the defaults 1.3 times as fast as the "
        "textbook's script.",
        ("what", "reached", "training", "faster", "from the start", "faster", "best accuracy"),
        rows,
    )


def _times(seconds: list[float], base: list[float]) -> tuple[str, str]:
    if not seconds:
        return "-", "-"
    median = percentile(seconds, 50)
    return f"{median:.1f} s", f"{percentile(base, 50) / median:.2f}" if base else "-"
