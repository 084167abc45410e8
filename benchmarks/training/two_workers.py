"""Two local workers (MultiWorkerMirrored) against one, at the same global batch."""

from __future__ import annotations

from benchmarks.data import ROWS
from benchmarks.running import Running
from benchmarks.size import sized
from benchmarks.table import Row, Table, percentile
from benchmarks.training.against_scripts import BARE, job

ROUNDS = sized(2, 1)
BATCH = 1024


def measure(running: Running) -> Table:
    sides = {
        "one worker": ({"kind": "default"}, 1),
        "two workers": ({"kind": "multi_worker_mirrored", "workers": 2}, 2),
    }
    found: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(ROUNDS):
        for name, (strategy, workers) in sides.items():
            fit = {"batch_size": BATCH // workers}
            epochs, _ = job(running, 98 + number, strategy=strategy, fit=fit, tensorboard=BARE)
            found[name] += [epoch["seconds"] for epoch in epochs[1:]]
    base = percentile(found["one worker"], 50)
    rows = [
        Row(
            name,
            f"{percentile(times, 50):.2f} s",
            f"{ROWS / percentile(times, 50):,.0f}",
            f"{base / percentile(times, 50):.2f}",
        )
        for name, times in found.items()
    ]
    return Table(
        "Training: two local workers",
        f"LeNet-5 on {ROWS:,} images, global batch {BATCH}, MultiWorkerMirrored on one machine: both share its cores, "
        "so this shows the cost of talking, not what a second machine would bring.",
        ("workers", "epoch, median", "images/s", "to one worker"),
        rows,
    )
