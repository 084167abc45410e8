"""Failures that the platform acts on: memory that runs out, a deadline, a native abort."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable
from typing import Any

import pytest

from shared.jobs import AttemptOutcome, JobState
from tests.integration.worker.conftest import Stack, trainer_pid

pytestmark = [pytest.mark.tf, pytest.mark.slow]
Request = Callable[..., dict[str, Any]]


def layer(name: str, /, **config: Any) -> dict[str, Any]:
    return {"module": "keras.layers", "class_name": name, "config": config, "registered_name": None}


# 8x8 digits blown up to 64x64: 0.25 MB a row for the convolution's output alone
WIDE = {
    "module": "keras",
    "class_name": "Sequential",
    "config": {
        "name": "wide",
        "layers": [
            layer("InputLayer", batch_shape=[None, 8, 8, 1], name="image"),
            layer("UpSampling2D", size=[8, 8]),
            layer("Conv2D", filters=16, kernel_size=3, activation="relu"),
            layer("GlobalAveragePooling2D"),
            layer("Dense", units=10, activation="softmax"),
        ],
    },
    "registered_name": None,
}


def test_memory_that_runs_out_names_a_batch_that_fits(stack: Stack, digits_job: Request) -> None:
    stack.memory_limit = 1_950 * 2**20  # of which TensorFlow itself takes 1,630
    stack.worker()
    request = digits_job(epochs=1, model={"keras_config": WIDE}, fit={"batch_size": 1_400})
    job = stack.until_ended(stack.submit(**request))
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error["code"] == "oom_host", job.error
    codes = [attempt.error and attempt.error["code"] for attempt in job.attempts]
    assert codes == ["oom_host", "oom_host"], "memory is tried once more, never three times"
    assert job.error["detail"], "the end of the log is shown"
    named = re.search(r"Use fit.batch_size (\d+)", job.error["hint"])
    assert named, job.error["hint"]
    request["fit"]["batch_size"] = int(named[1])
    assert 1 <= int(named[1]) <= 700
    stack.succeeded(stack.submit(**request))


def test_a_job_that_runs_too_long_is_stopped_with_a_checkpoint_to_go_on_from(
    stack: Stack, digits_job: Request
) -> None:
    stack.worker()
    stack.succeeded(stack.submit(**digits_job()))  # what a first start takes is no part of the test
    job = stack.until_ended(stack.submit(**digits_job(epochs=100_000), deadline={"run_seconds": 8}))
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error["code"] == "deadline"
    assert f"modelyard retry {job.id}" in job.error["hint"]
    assert job.attempts[0].outcome is AttemptOutcome.FAILED
    assert list((stack.home / "runs" / str(job.run_dir) / "checkpoints").glob("*.npz"))


def test_a_native_abort_shows_the_log_and_is_tried_again_while_attempts_last(
    stack: Stack, digits_job: Request
) -> None:
    stack.worker()
    job_id = stack.submit(**digits_job(epochs=100_000), retry={"max_attempts": 1})
    os.kill(trainer_pid(stack.until_epoch(job_id, 2)), signal.SIGABRT)
    job = stack.until_ended(job_id)
    assert job.error is not None
    assert job.error["code"] == "trainer_killed"
    assert "SIGABRT" in job.error["message"]
    assert "epoch 2/" in job.error["detail"]
