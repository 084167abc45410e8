"""Jobs through a real worker: what happens when all goes well, and when anything is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.jobs import AttemptOutcome, JobState
from shared.specs import parse_job
from tests.conftest import Broker
from tests.integration.worker.conftest import Stack, alive, trainer_pid

pytestmark = [pytest.mark.tf, pytest.mark.slow]
Request = Callable[..., dict[str, Any]]
LONG = 2_000  # epochs: more than any test waits for
SOME = 100  # enough to be disturbed in the middle


def test_a_job_is_trained_published_and_served(running: Stack, digits_job: Request) -> None:
    job = running.succeeded(running.submit(**digits_job(epochs=3, publish="digits")))
    assert job.result is not None
    assert job.result["version"] == 1
    assert job.result["epochs"] == 3
    assert job.metrics["latest"]["accuracy"] > 0.3
    assert job.run["start"] == "warm"
    types = [event.type for event in running.store.jobs.events(job.id).items]
    assert types.count("epoch") == 3
    stages = [
        event.data["stage"] for event in running.store.jobs.events(job.id).items if event.type == "stage"
    ]
    assert stages[-1] == "publishing"
    assert "training" in stages
    answer = httpx.post(
        f"{running.settings.serving_url}/v1/models/digits:predict", json={"instances": [[[[0]] * 8] * 8]}
    )
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["predictions"][0]) == 10
    version = running.store.models.version("digits", 1)
    assert version.job_id == job.id
    assert version.size_bytes > 1000
    assert "serving_default" in version.signatures


def test_a_fresh_start_does_the_same(tmp_path: Path, broker: Broker, digits_job: Request) -> None:
    stack = Stack(tmp_path / "home", broker, warm=False)
    stack.settings.paths.create()
    try:
        stack.worker()
        job = stack.succeeded(stack.submit(**digits_job()))
        assert job.run["start"] == "fresh"
    finally:
        stack.close()


def test_two_jobs_at_once_publish_two_versions_without_a_gap(
    tmp_path: Path, broker: Broker, digits_job: Request
) -> None:
    stack = Stack(tmp_path / "home", broker, slots=2)
    stack.settings.paths.create()
    try:
        stack.serving()
        stack.worker()
        ids = [stack.submit(**digits_job(publish="digits")) for _ in range(2)]
        versions = [(stack.succeeded(job_id).result or {})["version"] for job_id in ids]
        assert sorted(versions) == [1, 2]
    finally:
        stack.close()


def test_a_killed_trainer_ends_its_attempt_in_words_and_the_job_goes_on(
    stack: Stack, digits_job: Request
) -> None:
    stack.worker()
    job_id = stack.submit(**digits_job(epochs=SOME))
    job = stack.until_epoch(job_id, 3)
    os.kill(trainer_pid(job), signal.SIGKILL)
    job = stack.succeeded(job_id)
    assert [attempt.outcome for attempt in job.attempts] == [AttemptOutcome.FAILED, AttemptOutcome.SUCCEEDED]
    assert job.attempts[0].error is not None
    assert "SIGKILL" in job.attempts[0].error["message"]
    assert job.result is not None
    assert job.result["epochs"] == SOME
    epochs = [event.data["epoch"] for event in stack.store.jobs.events(job_id, limit=500).items
              if event.type == "epoch"]  # fmt: skip
    assert sorted(set(epochs)) == list(range(1, SOME + 1))
    assert epochs.count(2) == 1, "the second attempt began from a checkpoint"


def test_a_killed_worker_leaves_no_orphan_and_its_successor_goes_on(
    stack: Stack, digits_job: Request
) -> None:
    worker = stack.worker()
    job_id = stack.submit(**digits_job(epochs=SOME))
    pid = trainer_pid(stack.until_epoch(job_id, 3))
    worker.kill()
    worker.wait()
    stack.until(lambda: not alive(pid), 10)
    stack.worker()
    job = stack.succeeded(job_id, 45)
    assert [attempt.outcome for attempt in job.attempts] == [AttemptOutcome.LOST, AttemptOutcome.SUCCEEDED]
    assert job.result is not None
    assert job.result["epochs"] == SOME


def test_another_worker_takes_over_when_the_lease_ends(
    tmp_path: Path, broker: Broker, digits_job: Request, postgres_url: str
) -> None:
    # PostgreSQL ends a transaction whose client is frozen; SQLite has nobody who could
    stack = Stack(tmp_path / "home", broker, lease_seconds=4, heartbeat_seconds=1, database_url=postgres_url)
    stack.settings.paths.create()
    try:
        both = [stack.worker(), stack.worker()]
        job_id = stack.submit(**digits_job(epochs=SOME))
        job = stack.until_epoch(job_id, 2)
        (its_pid,) = (one.pid for one in stack.store.workers.find() if one.id == job.worker_id)
        (its_worker,) = (one for one in both if one.pid == its_pid)
        its_worker.send_signal(signal.SIGSTOP)  # it looks dead, and will come back
        stack.until(lambda: stack.job(job_id).attempt == 2, 40)
        its_worker.send_signal(signal.SIGCONT)
        stack.until(lambda: not alive(trainer_pid(job)), 20)
        done = stack.succeeded(job_id)
        assert done.attempts[1].outcome is AttemptOutcome.SUCCEEDED
        assert (done.result or {})["epochs"] == SOME
        assert its_worker.poll() is None
    finally:
        stack.close()


@pytest.mark.parametrize("stage", ["starting", "preparing_data", "building", "training"])
def test_cancel_ends_the_trainer_at_any_stage(running: Stack, digits_job: Request, stage: str) -> None:
    job_id = running.submit(**digits_job(epochs=LONG))
    order = ["starting", "preparing_data", "building", "training"]
    running.until(lambda: (running.job(job_id).stage or "") in order[order.index(stage) :], 30)
    running.store.jobs.request_cancel(job_id)
    job = running.until_ended(job_id, 40)
    assert job.state is JobState.CANCELLED
    if "trainer_pid" in job.run:
        assert not alive(trainer_pid(job))
    assert job.attempts[0].outcome is AttemptOutcome.CANCELLED
    assert (job.error or {})["code"] == "cancelled"


def test_a_worker_told_to_stop_lets_the_trainer_checkpoint_and_puts_the_job_back(
    stack: Stack, digits_job: Request
) -> None:
    worker = stack.worker()
    job_id = stack.submit(**digits_job(epochs=SOME), retry={"max_attempts": 1})
    stack.until_epoch(job_id, 2)
    worker.terminate()
    assert worker.wait(30) == 0
    job = stack.job(job_id)
    assert job.state is JobState.QUEUED
    assert job.attempts[0].outcome is AttemptOutcome.RELEASED
    checkpoints = [event.data for event in stack.store.jobs.events(job_id, limit=500).items
                   if event.type == "checkpoint"]  # fmt: skip
    stack.worker()
    done = stack.succeeded(job_id)
    assert (done.result or {})["epochs"] == SOME
    assert checkpoints[-1]["step"] >= 60


def test_a_broker_that_is_away_loses_nothing_and_does_not_disturb_a_running_job(
    stack: Stack, digits_job: Request
) -> None:
    stack.worker()
    running = stack.submit(**digits_job(epochs=LONG))
    stack.until_epoch(running, 1)
    stack.broker.stop()
    accepted, _ = stack.store.jobs.create(parse_job(digits_job()))
    before = len(stack.store.jobs.events(running, limit=5000).items)
    time.sleep(8)
    assert stack.job(running).state is JobState.RUNNING
    assert stack.job(running).attempt == 1
    assert len(stack.store.jobs.events(running, limit=5000).items) > before + 2
    stack.broker.start()
    stack.store.jobs.request_cancel(running)
    stack.until_ended(running)
    stack.succeeded(accepted.id)


def test_a_loss_that_is_not_finite_fails_the_job_with_that_reason(
    running: Stack, digits_job: Request
) -> None:
    request = digits_job(fit={"optimizer": "sgd", "learning_rate": 100.0, "loss": "mean_squared_error"})
    job = running.until_ended(running.submit(**request))
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert job.error["code"] == "nan_loss"
    assert job.attempt == 1
    assert not list((running.home / "runs" / str(job.run_dir)).rglob("export"))


def test_a_batch_larger_than_the_data_names_the_field(running: Stack, digits_job: Request) -> None:
    job = running.until_ended(running.submit(**digits_job(fit={"batch_size": 100_000})))
    assert job.error is not None
    assert job.error["code"] == "data_invalid"
    assert "1500" in job.error["message"]


def test_a_path_outside_the_allowed_folders_is_refused_by_the_worker_too(
    running: Stack, digits_job: Request
) -> None:
    request = digits_job(dataset={"npz": "/etc/passwd"})
    job = running.until_ended(running.submit(**request))
    assert job.error is not None
    assert job.error["code"] == "path_not_allowed"


def test_a_full_disk_while_publishing_fails_in_words_and_a_retry_goes_on_from_the_checkpoint(
    stack: Stack, digits_job: Request
) -> None:
    models = stack.home / "models"
    mount = ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(models)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a small file system")
    try:
        stack.serving()
        stack.worker()
        request = digits_job(epochs=20, publish="digits", retry={"max_attempts": 1})
        job = stack.until_ended(stack.submit(**request))
        assert job.state is JobState.FAILED
        assert job.error is not None
        assert job.error["code"] == "disk_full"
        assert "retry" in job.error["hint"]
        assert list((models / "digits").iterdir()) == [], "nothing half-copied stays"
    finally:
        subprocess.run(["umount", str(models)], check=True)
    again, _ = stack.store.jobs.create(parse_job(request), retry_of=job.id, resume_from=job.run_dir)
    stack.queue.send(again.id)
    done = stack.succeeded(again.id)
    assert done.run["resumed_from"]["epoch"] == 20
    assert (done.result or {})["version"] == 1
