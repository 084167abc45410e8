"""Queues through real workers: wake-ups that are not lost, draining, and fair turns."""

from __future__ import annotations

import itertools
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from shared.jobs import AttemptOutcome, JobState
from tests.conftest import Broker
from tests.integration.worker.conftest import Stack

pytestmark = [pytest.mark.tf, pytest.mark.slow]
Request = Callable[..., dict[str, Any]]
ENDLESS = 100_000  # epochs; an epoch may take ten milliseconds, a drain is noticed after a second


def one_epoch(digits_job: Request, **changes: Any) -> dict[str, Any]:
    return digits_job(epochs=1, **changes)


def test_jobs_held_back_by_a_limit_are_all_run_and_never_two_at_once(
    tmp_path: Path, broker: Broker, digits_job: Request
) -> None:
    # without lost wake-ups: the sweeper that would mend them is asleep
    stack = Stack(tmp_path / "home", broker, slots=2, sweep_seconds=3600)
    stack.settings.paths.create()
    try:
        stack.worker()
        stack.store.projects.set_limit("a", 1)
        ids = [stack.submit(**one_epoch(digits_job, project="a")) for _ in range(3)]
        other = stack.submit(**one_epoch(digits_job, project="b"))
        spans = []
        for job_id in ids:
            job = stack.succeeded(job_id, 240)
            spans.append((job.started_at or 0.0, job.finished_at or 0.0))
        stack.succeeded(other, 240)
        spans.sort()
        assert all(ended <= begun for (_, ended), (begun, _) in itertools.pairwise(spans))
    finally:
        stack.close()


def test_a_draining_worker_gives_its_job_back_and_another_one_takes_it(
    tmp_path: Path, broker: Broker, digits_job: Request
) -> None:
    stack = Stack(tmp_path / "home", broker, queues="default,big", lease_seconds=6, heartbeat_seconds=1)
    stack.settings.paths.create()
    try:
        first = stack.worker()
        (draining,) = stack.store.workers.find()
        assert draining.queues == ("default", "big")
        job_id = stack.submit(**digits_job(epochs=ENDLESS, queue="big"))
        stack.until_epoch(job_id, 2, 180)
        stack.store.workers.drain(draining.id, now=True)
        stack.until(lambda: stack.job(job_id).state is JobState.QUEUED, 120)
        assert stack.job(job_id).attempts[0].outcome is AttemptOutcome.RELEASED
        waiting = stack.submit(**one_epoch(digits_job))
        first.send_signal(signal.SIGKILL)
        first.wait()
        stack.worker()
        stack.until(lambda: [one.pid == first.pid for one in stack.store.workers.find()] == [False], 60)
        (successor,) = stack.store.workers.find()
        assert successor.draining == "finish", "a crash does not end a drain"
        assert stack.job(job_id).state is JobState.QUEUED
        stack.store.workers.undrain(successor.id)
        stack.until(lambda: "resumed_from" in stack.job(job_id).run, 240)
        assert stack.job(job_id).attempt == 2
        assert stack.job(job_id).run["resumed_from"]["epoch"] >= 2
        stack.store.jobs.request_cancel(job_id)
        assert stack.until_ended(job_id).state is JobState.CANCELLED
        stack.succeeded(waiting, 240)
    finally:
        stack.close()
