"""SIGKILL at points drawn by a seed, and where it is worst: the end must be that of a run nothing happened to."""

from __future__ import annotations

import json
import os
import random
import select
import signal
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from services.worker.training import checkpoints
from services.worker.training.checkpoints import Checkpoint
from shared import checkpoint_files
from tests.training.conftest import DIGITS_JOB, Job, Supervisor, changed

EPOCHS, STEPS = 6, 30  # 1,500 rows in batches of 50
BASE = changed(
    DIGITS_JOB,
    # Dropout makes the seed generators' state matter, Adam the optimizer's, the callbacks theirs
    model={"builder": "mlp", "params": {"units": "16", "dropout": 0.3}},
    fit={"epochs": EPOCHS, "batch_size": 50, "deterministic": True, "steps_per_execution": 4},
) | {"tensorboard": {"update_freq": "batch", "write_images": False}}
PLATEAU = [
    {"name": "ReduceLROnPlateau", "params": {"monitor": "loss", "patience": 1, "min_delta": 0.2}},
    {"name": "EarlyStopping", "params": {"patience": 4, "min_delta": 0.05, "restore_best_weights": True}},
    {
        "name": "ModelCheckpoint",
        "params": {"filepath": "best.weights.h5", "save_weights_only": True, "save_best_only": True},
    },
    {"name": "CSVLogger", "params": {"filename": "log.csv"}},
    "TerminateOnNaN",
]
SCHEDULED = [
    {
        "name": "LearningRateScheduler",
        "params": {
            "schedule": {
                "name": "CosineDecay",
                "params": {"initial_learning_rate": 0.01, "decay_steps": EPOCHS},
            },
            "warmup_epochs": 2,
        },
    },
    {"name": "SwapEMAWeights", "params": {"swap_on_epoch": True}},
    {
        "name": "ModelCheckpoint",
        "params": {"filepath": "w/{epoch}-{batch}.weights.h5", "save_weights_only": True, "save_freq": 37},
    },
    {"name": "CSVLogger", "params": {"filename": "log.csv", "separator": ";"}},
]


MOMENTUM = {"name": "SGD", "params": {"momentum": 0.9}}
AVERAGING = {"name": "SGD", "params": {"momentum": 0.9, "use_ema": True}}


def normalized() -> keras.Model:
    """BatchNormalization has statistics on each replica; Dropout has its seeds."""
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Rescaling(1 / 255),
            layers.Flatten(),
            layers.Dense(16, activation="relu"),
            layers.BatchNormalization(),
            layers.Dropout(0.3),
            layers.Dense(10, activation="softmax"),
        ]
    )


@dataclass(frozen=True)
class Kill:
    """When to kill: ``after`` seconds from the first event at or beyond ``at``."""

    what: str  # step, validation, epoch, writing, evaluating, exporting
    at: int = 0  # steps in all, or epochs
    after: float = 0.0

    def seen(self, event: dict[str, Any]) -> bool:
        kind = event["event"]
        if kind == "stage":
            return event["stage"] == self.what or (
                # an earlier kill came late, and all steps are done
                event["stage"] == "evaluating" and self.what != "exporting"
            )
        match self.what:
            case "step":
                return kind == "metrics" and event["step"] >= self.at
            case "validation":
                return kind == "progress" and event["step"] == STEPS and event["epoch"] >= self.at
            case "epoch":
                return kind == "epoch" and event["epoch"] >= self.at
        return False


def a_plan(seed: int, each: int) -> list[Kill]:
    """One at any step, and ``each`` at all the places where it is worst."""
    chance = random.Random(seed)
    steps = EPOCHS * STEPS
    plan = [Kill("step", chance.randrange(1, steps), chance.uniform(0, 0.02))]
    plan += [Kill("validation", chance.randrange(1, EPOCHS), chance.uniform(0, 0.01)) for _ in range(each)]
    plan += [Kill("epoch", chance.randrange(1, EPOCHS), chance.uniform(0, 0.01)) for _ in range(each)]
    plan += [Kill("writing", chance.randrange(1, EPOCHS - 1), chance.uniform(0, 0.01)) for _ in range(each)]
    place = {"step": 1, "validation": STEPS, "epoch": STEPS, "writing": STEPS}
    plan.sort(key=lambda kill: kill.at * place[kill.what])
    return [
        *plan,
        Kill("evaluating", after=chance.uniform(0, 0.05)),
        *(Kill("exporting", after=chance.uniform(0, 0.3)) for _ in range(each)),
    ]


def die(job: Job, kill: Kill, chance: random.Random) -> None:
    """Wait for the place, then SIGKILL."""
    if kill.what == "writing":
        _wait_for_a_write(job, chance.randrange(1, 30_000))
    else:
        job.wait_for(kill.seen, timeout=180)
        time.sleep(kill.after)
    os.kill(job.trainer.pid, signal.SIGKILL)
    assert job.finish() == -signal.SIGKILL, job.tail()


def _wait_for_a_write(job: Job, count: int) -> None:
    """Until the program has written ``count`` bytes of a checkpoint: its temporary files are pipes, which we read."""
    job.wait_for(lambda event: event["event"] == "progress", timeout=180)
    folder = job.run_dir / "checkpoints"
    folder.mkdir(exist_ok=True)
    poll = select.poll()
    pipes = []
    for epoch in range(EPOCHS + 1):
        for step in range(STEPS + 1):
            path = folder / f".{checkpoint_files.stem(epoch, step)}.npz.tmp"
            if not path.exists():
                os.mkfifo(path)
                pipes.append(os.open(path, os.O_RDONLY | os.O_NONBLOCK))
                poll.register(pipes[-1], select.POLLIN)
    try:
        (pipe, _), *_ = poll.poll(120_000)
        assert os.read(pipe, count)
    finally:
        for pipe in pipes:
            os.close(pipe)


def points(run_dir: Path, run: str) -> dict[str, list[tuple[int, bytes]]]:
    """What TensorBoard would show: by tag, each step and value."""
    found = EventAccumulator(str(run_dir / run), size_guidance={"tensors": 0}, purge_orphaned_data=False)
    found.Reload()
    return {
        tag: [
            (event.step, event.tensor_proto.SerializeToString())
            for event in sorted(found.Tensors(tag), key=lambda event: event.step)
        ]
        for tag in found.Tags()["tensors"]
    }


def last_checkpoint(run_dir: Path) -> Checkpoint:
    _, found = next(checkpoints.newest(run_dir / "checkpoints"))
    assert isinstance(found, Checkpoint)
    assert found.complete
    return found


def weights_in(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    found = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
        )
    return found


def assert_equal(whole: Job, broken: Job) -> None:
    """Weights, optimizer, seeds, means, callbacks, best checkpoint, metrics, CSV file, saved models, event files."""
    assert broken.last["metrics"] == whole.last["metrics"]
    assert (broken.last["epochs"], broken.last["steps"]) == (whole.last["epochs"], whole.last["steps"])
    one, other = last_checkpoint(whole.run_dir), last_checkpoint(broken.run_dir)
    assert set(one.arrays) == set(other.arrays)
    for name, array in one.arrays.items():
        np.testing.assert_array_equal(array, other.arrays[name], err_msg=name)
    assert json.dumps(one.callbacks) == json.dumps(other.callbacks)
    assert (one.best, one.metrics, one.position) == (other.best, other.metrics, other.position)
    listed = [
        [
            (file.path, file.best, file.verified, file.metrics)
            for file in checkpoint_files.listing(job.run_dir)
            if file.best or file.complete  # those taken by time lie where the clock wants
        ]
        for job in (whole, broken)
    ]
    assert listed[0] == listed[1]
    assert any(best for _, best, _, _ in listed[0])
    exports = [tf.saved_model.load(str(job.run_dir / "export")) for job in (whole, broken)]
    for variable, theirs in zip(exports[0].variables, exports[1].variables, strict=True):
        np.testing.assert_array_equal(variable.numpy(), theirs.numpy(), err_msg=variable.name)
    assert (whole.run_dir / "log.csv").read_bytes() == (broken.run_dir / "log.csv").read_bytes()
    saved = [
        {str(p.relative_to(job.run_dir)): p for p in job.run_dir.rglob("*.h5")} for job in (whole, broken)
    ]
    assert set(saved[0]) == set(saved[1])
    assert saved[0]
    for name, path in saved[0].items():
        theirs = weights_in(saved[1][name])
        for key, value in weights_in(path).items():
            np.testing.assert_array_equal(value, theirs[key], err_msg=f"{name} {key}")
    for run in ("train", "validation", "test"):
        shown, again = points(whole.run_dir, run), points(broken.run_dir, run)
        assert set(shown) == set(again)
        for tag, values in again.items():
            assert max(Counter(step for step, _ in values).values()) == 1, f"{run}/{tag} has a step twice"
            if tag.startswith("batch_") and tag != "batch_loss":
                continue  # a mean so far, written where a chunk of steps happened to end
            assert [step for step, _ in values] == [step for step, _ in shown[tag]], tag
            if tag not in {"keras"}:
                assert values == shown[tag], tag


def go_through(supervisor: Supervisor, spec: dict[str, Any], data: Path, plan: list[Kill]) -> Job:
    """Die at each place of ``plan``, go on, and come to the end."""
    chance = random.Random(len(plan))
    for attempt, kill in enumerate(plan, start=1):
        job = supervisor.start(spec, data=data, run="broken", attempt=attempt)
        die(job, kill, chance)
        job.trainer.close()
        supervisor.jobs.remove(job)
    last = supervisor.start(spec, data=data, run="broken", attempt=len(plan) + 1)
    assert last.finish(timeout=300) == 0, last.tail()
    assert last.noted()["resumed_from"]["total"] > 0
    return last


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("fit", "every", "seed", "each", "mirrored"),
    [
        ({"callbacks": PLATEAU}, 20, 1, 2, False),
        ({"callbacks": SCHEDULED, "optimizer": AVERAGING}, "0.01s", 2, 1, False),
        ({"callbacks": PLATEAU, "batch_size": 25, "optimizer": MOMENTUM}, 20, 3, 1, True),
    ],
    ids=["steps", "seconds", "mirrored"],
)
def test_six_or_ten_kills_change_nothing(
    supervisor: Supervisor,
    digits: Path,
    fit: dict[str, Any],
    every: Any,
    seed: int,
    each: int,
    mirrored: bool,
) -> None:
    spec = changed(BASE, fit=fit, checkpoint={"every": every, "keep": 2})
    if mirrored:
        spec |= {
            "model": {"keras_config": json.loads(normalized().to_json())},
            "strategy": {"kind": "mirrored", "preflight": False},
            "devices": {"virtual_devices": 2},
            # drawing the graphs takes each attempt as long as its steps do; the others draw them
            "tensorboard": spec["tensorboard"] | {"write_graph": False},
        }
    whole = supervisor.start(spec, data=digits, run="whole")
    assert whole.finish(timeout=300) == 0, whole.tail()
    assert_equal(whole, go_through(supervisor, spec, digits, a_plan(seed, each)))
