"""Whole jobs on replicas: what they show, end with, and go on from; and strategies that can't be had."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tests.training.conftest import DIGITS_JOB, Job, Supervisor, changed

# 1500 rows in global batches of 64: the last one has 28
ON_TWO = changed(
    DIGITS_JOB,
    model={"builder": "mlp", "params": {"units": "32", "dropout": 0.2}},
    fit={"epochs": 2, "batch_size": 32, "deterministic": True},
) | {"devices": {"virtual_devices": 2}}


def with_strategy(job: dict[str, Any], **strategy: Any) -> dict[str, Any]:
    return job | {"strategy": strategy}


@pytest.fixture(scope="module")
def one(shared_supervisor: Supervisor, digits: Path) -> Job:
    return shared_supervisor.run(changed(ON_TWO, fit={"batch_size": 64}), data=digits, run="one")


def test_a_job_on_two_replicas_is_the_job_on_one_with_the_global_batch(
    supervisor: Supervisor, digits: Path, one: Job
) -> None:
    for kind in ("mirrored", "central_storage"):
        many = supervisor.run(with_strategy(ON_TWO, kind=kind), data=digits, run=kind)
        facts = many.noted()
        assert facts["strategy"]["kind"] == kind
        assert facts["strategy"]["devices"] == ["CPU:0", "CPU:1"]
        assert (facts["replicas"], facts["batch_size"], facts["global_batch"]) == (2, 32, 64)
        assert facts["steps_per_epoch"] == one.noted()["steps_per_epoch"]
        assert many.last["metrics"] == pytest.approx(one.last["metrics"], abs=1e-5)
        assert facts["preflight"]["result"] == "passed"
        assert facts["preflight"]["seconds"] > 0
        for mine, theirs in zip(many.of("epoch"), one.of("epoch"), strict=True):
            assert mine["metrics"] == pytest.approx(theirs["metrics"], abs=1e-5)


def _weights(run_dir: Path) -> list[np.ndarray[Any, Any]]:
    loaded = tf.saved_model.load(str(run_dir / "export"))
    return [variable.numpy() for variable in loaded.variables]


def test_preflight_leaves_no_trace_and_rows_on_disk_give_the_same_model(
    supervisor: Supervisor, digits: Path, one: Job
) -> None:
    job = changed(ON_TWO, dataset={"npz": "ds_digits", "cache": False})
    weights = []
    for asked in (True, False):
        done = supervisor.run(
            with_strategy(job, kind="mirrored", preflight=asked), data=digits, run=f"preflight_{asked}"
        )
        assert ("preflight" in done.noted()) is asked
        assert (done.noted()["data"]["kept"], done.noted()["replicas"]) == ("disk", 2)
        assert done.last["metrics"] == pytest.approx(one.last["metrics"], abs=1e-5)
        weights.append(_weights(done.run_dir))
    for mine, theirs, alone in zip(*weights, _weights(one.run_dir), strict=True):
        np.testing.assert_array_equal(mine, theirs)
        np.testing.assert_allclose(mine, alone, atol=1e-5)


def test_a_killed_job_goes_on_exactly_and_on_one_device_to_rounding(
    supervisor: Supervisor, digits: Path
) -> None:
    job = with_strategy(changed(ON_TWO, fit={"batch_size": 4}), kind="mirrored", preflight=False)
    job["checkpoint"] = {"every": 20}
    whole = supervisor.run(job, data=digits, run="whole")

    broken = supervisor.broken_off(job, data=digits, run="broken", at=20)
    shutil.copytree(broken.run_dir / "checkpoints", tmp := supervisor.home / "kept" / "checkpoints")
    resumed = supervisor.run(job, data=digits, run="broken")
    assert resumed.noted()["resumed_from"]["total"] >= 20
    for one, other in zip(_weights(whole.run_dir), _weights(resumed.run_dir), strict=True):
        np.testing.assert_array_equal(one, other)

    alone = changed(job, fit={"batch_size": 8}) | {"strategy": {"kind": "default"}}
    smaller = supervisor.run(alone, data=digits, run="alone", resume_dirs=[tmp.parent])
    assert smaller.noted()["resumed_from"]["total"] >= 20
    for one, other in zip(_weights(whole.run_dir), _weights(smaller.run_dir), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize(
    ("strategy", "says"),
    [
        ({"kind": "mirrored", "devices": ["CPU:0", "CPU:7"]}, "no device CPU:7"),
        ({"kind": "one_device", "device": "GPU:0"}, "no device GPU:0"),
        ({"kind": "mirrored", "cross_device_ops": "nccl"}, "between GPUs"),
        ({"kind": "tpu"}, "TPU 'local'"),
        ({"kind": "tpu", "name": "grpc://127.0.0.1:9"}, "TPU"),
    ],
    ids=["no_cpu", "no_gpu", "nccl", "tpu", "remote_tpu"],
)
def test_a_strategy_that_can_not_be_had_ends_the_job_in_words(
    supervisor: Supervisor, digits: Path, strategy: dict[str, Any], says: str
) -> None:
    failed = supervisor.fail(with_strategy(ON_TWO, **strategy), data=digits)
    assert failed["code"] == "strategy_unavailable"
    assert says in failed["message"]
    assert failed["hint"]


@pytest.mark.parametrize(
    ("strategy", "devices", "code"),
    [
        ({"kind": "mirrored"}, {}, "one_replica"),
        ({"kind": "default"}, {"virtual_devices": 2}, "virtual_devices_idle"),
    ],
)
def test_what_is_asked_for_and_does_nothing_is_a_warning(
    supervisor: Supervisor, digits: Path, strategy: dict[str, Any], devices: dict[str, Any], code: str
) -> None:
    job = supervisor.run(with_strategy(ON_TWO, **strategy) | {"devices": devices}, data=digits)
    assert [event["code"] for event in job.of("warning")] == [code]
    assert job.noted()["strategy"]["devices"] == ["CPU:0"]
