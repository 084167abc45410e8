"""What a checkpoint costs, from the time of epochs with many of them and with one."""

from __future__ import annotations

from benchmarks.data import ROWS
from benchmarks.running import Running
from benchmarks.size import sized
from benchmarks.table import Row, Table, milliseconds, percentile
from benchmarks.training.against_scripts import BARE, job

ROUNDS = sized(2, 1)
STEPS = -(-ROWS // 128)  # an epoch
EVERY = {"epoch": 1, 100: STEPS // 100, 10: STEPS // 10}


def measure(running: Running) -> Table:
    found: dict[str | int, list[float]] = {every: [] for every in EVERY}
    for number in range(ROUNDS):
        for every in EVERY:
            epochs, _ = job(running, 98 + number, checkpoint={"every": every}, tensorboard=BARE)
            found[every] += [epoch["seconds"] for epoch in epochs[1:]]
    base = percentile(found["epoch"], 50)
    rows = []
    for every, count in EVERY.items():
        seconds = percentile(found[every], 50)
        each = "-" if count <= 1 else _cost((seconds - base) / (count - 1))
        step = "-" if every == "epoch" else _cost((seconds - base) / STEPS)
        rows.append(
            Row(f"every {every}" + ("" if every == "epoch" else " steps"), f"{seconds:.2f} s", each, step)
        )
    return Table(
        "Training: checkpoints",
        f"LeNet-5 (62,000 weights and Adam's state, 0.7 MB), {STEPS} steps an epoch; written to disk, forced there and "
        "hashed, each time.",
        ("checkpoint", "epoch, median", "one checkpoint", "spread over all steps"),
        rows,
    )


def _cost(seconds: float) -> str:
    return milliseconds(seconds) if seconds > 0 else "below the noise"
