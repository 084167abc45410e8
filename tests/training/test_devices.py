"""Device options in real jobs: what TensorFlow then has, and what the job says about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.training.conftest import Supervisor


def spec(devices: dict[str, Any], **fit: Any) -> dict[str, Any]:
    return {
        "model": {"builder": "mlp", "params": {"units": [16]}},
        "dataset": {"npz": "ds_digits"},
        "fit": {"epochs": 1, "batch_size": 100, **fit},
        "devices": devices,
    }


def test_the_cpu_is_split_into_logical_devices(supervisor: Supervisor, digits: Path) -> None:
    job = supervisor.run(spec({"virtual_devices": [1024, 1024]}), data=digits)
    found = job.noted()["devices"]
    assert [device["name"] for device in found["logical"]] == ["CPU:0", "CPU:1"]
    assert [device["name"] for device in found["physical"]] == ["CPU:0"]
    assert found["requested"] == {"virtual_devices": [1024, 1024]}
    assert [event["code"] for event in job.of("warning")] == ["no_gpu"]


def test_a_gpu_that_is_not_there_fails_in_words(supervisor: Supervisor, digits: Path) -> None:
    failed = supervisor.fail(spec({"visible": ["GPU:0"]}), data=digits)
    assert failed["code"] == "device_unavailable"
    assert "CPU:0" in failed["message"]
