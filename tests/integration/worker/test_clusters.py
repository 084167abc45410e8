"""Clusters of real processes under a real worker: the same numbers as on one device, whatever is killed meanwhile."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from services.worker.lifecycle import Attempts
from services.worker.preloader import Preloader, Trainer
from services.worker.protocol import TrainingRequest
from services.worker.publish import Publisher
from services.worker.study_sessions import StudySessions
from services.worker.trial import Trials
from shared.jobs import AttemptOutcome, Job, JobState
from shared.model_repo import ModelRepo
from shared.serving_client import ServingClient
from shared.serving_config import ServingConfig
from shared.specs import parse_job
from shared.tuning.engines import Engines
from tests.conftest import Broker
from tests.integration.worker.clusters import (
    BATCH,
    EPOCHS,
    Arrays,
    assert_learned_alike,
    mirrored,
    pids,
    requests_for,
    state_of,
    until_step,
)
from tests.integration.worker.conftest import Stack, alive, stack_in

pytestmark = [pytest.mark.tf, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack_in(tmp_path_factory.mktemp("clusters")) as one:
        yield one


@pytest.fixture(scope="module")
def request_for(digits: Path) -> Callable[..., dict[str, Any]]:
    return requests_for(digits)


@pytest.fixture(scope="module")
def alone(stack: Stack, request_for: Any) -> tuple[Job, Arrays]:
    """The same training on one device."""
    stack.worker()
    job = stack.succeeded(stack.submit(**request_for({"kind": "default"}, BATCH)))
    return job, state_of(stack, job)


@pytest.fixture(scope="module")
def together(stack: Stack, request_for: Any, alone: Any) -> tuple[Job, Arrays]:
    """The training by two workers, undisturbed."""
    job = stack.succeeded(stack.submit(**request_for(mirrored(), BATCH // 2)))
    return job, state_of(stack, job)


def test_two_workers_learn_what_one_device_learns(alone: Any, together: Any) -> None:
    assert together[1].keys() == alone[1].keys()
    assert_learned_alike(alone, together)
    two, _ = together
    assert (two.run["replicas"], two.run["batch_size"], two.run["global_batch"]) == (2, 32, 64)
    assert two.attempt == 1
    assert not any(alive(pid) for pid in pids(two))


def test_whatever_is_killed_the_weights_are_those_of_an_undisturbed_training(
    stack: Stack, request_for: Any, together: Any
) -> None:
    job_id = stack.submit(**request_for(mirrored(preflight=False), BATCH // 2))

    members = pids(until_step(stack, job_id, 50))
    os.kill(members[1], signal.SIGKILL)
    stack.until(lambda: stack.job(job_id).attempt == 2, 15)
    assert not any(map(alive, members)), "a cluster ends as a whole"

    members = pids(until_step(stack, job_id, 100))
    worker = stack.processes[-1]
    worker.terminate()
    assert worker.wait(30) == 0
    assert stack.job(job_id).state is JobState.QUEUED
    assert not any(map(alive, members))

    worker = stack.worker()
    members = pids(until_step(stack, job_id, 150))
    worker.kill()
    worker.wait()
    stack.until(lambda: not any(map(alive, members)), 10)

    stack.worker()
    job = stack.succeeded(job_id, 120)
    outcomes = [attempt.outcome for attempt in job.attempts]
    assert outcomes == [
        AttemptOutcome.FAILED,
        AttemptOutcome.RELEASED,
        AttemptOutcome.LOST,
        AttemptOutcome.SUCCEEDED,
    ]
    error = job.attempts[0].error
    assert error is not None
    assert error["code"] == "trainer_killed"
    assert "worker-1" in error["message"]
    for name, value in together[1].items():
        np.testing.assert_array_equal(state_of(stack, job)[name], value, err_msg=name)


def test_cancel_ends_all_members(stack: Stack, request_for: Any, together: Any) -> None:
    job_id = stack.submit(**request_for(mirrored(preflight=False), BATCH // 2, epochs=5000))
    members = pids(until_step(stack, job_id, 50))
    stack.store.jobs.request_cancel(job_id)
    job = stack.until_ended(job_id, 25)
    assert job.state is JobState.CANCELLED
    assert not any(map(alive, members))
    assert (stack.home / "runs" / str(job.run_dir) / "job.worker-1.log").stat().st_size > 0


def test_one_worker_of_a_parameter_server_learns_what_one_device_learns(
    stack: Stack, request_for: Any, alone: Any
) -> None:
    strategy = {"kind": "parameter_server", "workers": 1, "ps": 2}
    job = stack.succeeded(stack.submit(**request_for(strategy, BATCH)))
    assert_learned_alike(alone, (job, state_of(stack, job)))


def test_workers_of_parameter_servers_come_and_go_and_a_lost_server_costs_an_attempt(
    stack: Stack, request_for: Any, alone: Any
) -> None:
    strategy = {"kind": "parameter_server", "workers": 2, "ps": 1}
    job_id = stack.submit(**request_for(strategy, BATCH))

    job = until_step(stack, job_id, 50)
    chief, _, _, second = pids(job)
    os.kill(second, signal.SIGKILL)
    stack.until(lambda: stack.job(job_id).run["cluster"]["restarts"] == 1, 20)
    job = until_step(stack, job_id, 200)
    assert (job.attempt, pids(job)[0]) == (1, chief), "the chief went on"

    os.kill(pids(job)[1], signal.SIGKILL)
    stack.until(lambda: stack.job(job_id).attempt == 2, 20)
    done = stack.succeeded(job_id, 120)
    assert done.attempts[0].error is not None
    assert "ps-0" in done.attempts[0].error["message"]
    assert done.result is not None
    assert done.result["steps"] == EPOCHS * 24
    assert done.result["metrics"]["test_accuracy"] > 0.8
    warnings = [event.data["code"] for event in stack.store.jobs.events(job_id, limit=1000).items
                if event.type == "warning"]  # fmt: skip
    assert "member_restarted" in warnings


def test_two_workers_of_a_parameter_server_count_every_step_and_row_once(
    stack: Stack, request_for: Any, alone: Any
) -> None:
    strategy = {"kind": "parameter_server", "workers": 2, "ps": 1}
    # counts of rows are all that these four add up to
    counts = ["TruePositives", "TrueNegatives", "FalsePositives", "FalseNegatives"]
    job = stack.succeeded(stack.submit(**request_for(strategy, BATCH, epochs=3, metrics=counts)))
    state = state_of(stack, job)
    iterations = [int(value) for value in state.values() if value.ndim == 0 and value.dtype.kind == "i"]
    assert 3 * 24 in iterations
    points = {event.data["epoch"]: event.data["metrics"] for event in stack.store.jobs.events(job.id).items
              if event.type == "epoch"}  # fmt: skip
    for metrics in points.values():
        kinds = ("true_positives", "true_negatives", "false_positives", "false_negatives")
        assert sum(metrics[kind] for kind in kinds) == 1500 * 10
        assert sum(metrics[f"val_{kind}"] for kind in kinds) == 297 * 10


class Thief:
    """A preloader, but somebody takes the second member's port just before that is started, once."""

    def __init__(self, preloader: Preloader) -> None:
        self.preloader = preloader
        self.listener: socket.socket | None = None

    def start(self, request: TrainingRequest, log_file: Path) -> Trainer:
        task = request.cluster
        if task is not None and not task.is_chief and self.listener is None:
            self.listener = socket.socket()
            self.listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.listener.bind(("127.0.0.1", int(task.addresses["worker"][1].rpartition(":")[2])))
            self.listener.listen()
        return self.preloader.start(request, log_file)


def test_a_port_that_is_taken_meanwhile_is_not_the_jobs_failure(
    tmp_path: Path, request_for: Any, broker: Broker
) -> None:
    stack = Stack(tmp_path / "home", broker)
    stack.settings.paths.create()
    preloader = Preloader(warm=True)
    thief = Thief(preloader)
    serving = ServingClient(stack.settings.serving_url)
    engines, pruner = Engines(stack.store), ThreadPoolExecutor(1)
    attempts = Attempts(
        settings=stack.settings,
        worker_id="w",
        store=stack.store,
        publisher=Publisher(
            stack.store,
            ModelRepo(stack.settings.paths.models),
            serving,
            ServingConfig.of(stack.settings, stack.store),
            stack.settings.publish_timeout_seconds,
        ),
        preloader=thief,  # type: ignore[arg-type]
        studies=None,  # type: ignore[arg-type]
        trials=Trials(stack.store, engines, pruner, StudySessions(stack.settings.paths)),
        stopping=threading.Event(),
    )
    try:
        job, _ = stack.store.jobs.create(parse_job(request_for(mirrored(), BATCH // 2, epochs=1)))
        attempts.run_next()
        done = stack.job(job.id)
        assert done.state is JobState.SUCCEEDED, done.error
        assert done.attempt == 1
        codes = [
            event.data["code"] for event in stack.store.jobs.events(job.id).items if event.type == "warning"
        ]
        assert codes == ["port_taken"]
    finally:
        if thief.listener is not None:
            thief.listener.close()
        serving.close()
        pruner.shutdown()
        stack.close()
