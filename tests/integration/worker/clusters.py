"""Jobs that several processes train together, and what is left of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from shared.jobs import Job
from tests.integration.worker.conftest import Stack

Arrays = dict[str, np.ndarray[Any, Any]]
EPOCHS = 16
BATCH = 64  # in all: 23 steps and one of 28 rows an epoch


def architecture() -> dict[str, Any]:
    """Batch normalisation and dropout, which replicas most easily get wrong."""
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(4, 3, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(32, activation="relu"),
            layers.Dropout(0.3, seed=3),
            layers.Dense(10, activation="softmax"),
        ]
    )
    return dict(json.loads(model.to_json()))


def requests_for(digits: Path) -> Callable[..., dict[str, Any]]:
    """Makes requests: (strategy, batch per replica, **fit)."""
    config = architecture()

    def request(strategy: dict[str, Any], batch: int, **fit: Any) -> dict[str, Any]:
        return {
            "kind": "train",
            "model": {"keras_config": config},
            "dataset": {"npz": str(digits)},
            "fit": {
                "epochs": EPOCHS,
                "batch_size": batch,
                "optimizer": {"name": "Adam", "params": {"global_clipnorm": 0.5}},
                "deterministic": strategy["kind"] != "parameter_server",
                **fit,
            },
            "strategy": strategy,
            "checkpoint": {"every": 50},
            "retry": {"max_attempts": 6},
            "tensorboard": {"histogram_freq": 0, "write_images": False, "sample_images": 0},
        }

    return request


def mirrored(**more: Any) -> dict[str, Any]:
    return {"kind": "multi_worker_mirrored", "workers": 2, "communication": "ring", **more}


def state_of(stack: Stack, job: Job) -> Arrays:
    """All that was trained: weights, moving means, the optimizer's state, seeds of dropout."""
    assert job.run_dir is not None
    newest = sorted((stack.home / "runs" / job.run_dir / "checkpoints").glob("*.npz"))[-1]
    with np.load(newest, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def pids(job: Job) -> list[int]:
    return [member["pid"] for member in job.run["cluster"]["members"]]


def until_step(stack: Stack, job_id: str, step: int) -> Job:
    def reached() -> bool:
        events = stack.store.jobs.events(job_id, limit=1000).items
        return any(event.type == "checkpoint" and event.data["step"] >= step for event in events)

    stack.until(reached, 120)
    return stack.job(job_id)


def metrics_of(job: Job) -> dict[str, float]:
    return {**job.metrics["latest"], **job.result["metrics"]}  # type: ignore[index]


def assert_learned_alike(alone: tuple[Job, Arrays], other: tuple[Job, Arrays]) -> None:
    """State and metrics of the job by one device and of the other one are equal but for the order of additions."""
    (one, expected), (two, found) = alone, other
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert metrics_of(two) == pytest.approx(metrics_of(one), abs=1e-5, rel=1e-5)
