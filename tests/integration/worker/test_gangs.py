"""Jobs that span several real workers: the same numbers as on one device, whoever is killed, frozen or in the way."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shared.jobs import AttemptOutcome, Job, JobState
from tests.integration.worker.clusters import (
    BATCH,
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
EPOCHS = 9
PATIENCE = 600  # seconds, more than any test waits: no gang is rescued by giving up


class Workers:
    """Workers of one stack, by the ids that they have in the store."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def have(self, count: int) -> None:
        """See to it that so many run."""
        for worker_id, process in list(self.processes.items()):
            if process.poll() is not None:
                del self.processes[worker_id]
        while len(self.processes) < count:
            process = self.stack.worker()
            found = [one.id for one in self.stack.store.workers.find() if one.pid == process.pid]
            self.processes[found[0]] = process

    def of(self, job: Job) -> list[subprocess.Popen[bytes]]:
        """Those that run a job, the leader first."""
        return [self.processes[member["worker"]] for member in job.run["cluster"]["members"]]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    with stack_in(
        tmp_path_factory.mktemp("gangs"), lease_seconds=6, heartbeat_seconds=1, gang_wait_seconds=PATIENCE
    ) as one:
        yield one


@pytest.fixture(scope="module")
def workers(stack: Stack) -> Workers:
    return Workers(stack)


@pytest.fixture(scope="module")
def request_for(digits: Path) -> Callable[..., dict[str, Any]]:
    make = requests_for(digits)

    def request(strategy: dict[str, Any], batch: int, **fit: Any) -> dict[str, Any]:
        return make(strategy, batch, **{"epochs": EPOCHS, **fit})

    return request


def spread(**more: Any) -> dict[str, Any]:
    return mirrored(placement="spread", **more)


@pytest.fixture(scope="module")
def alone(stack: Stack, workers: Workers, request_for: Any) -> tuple[Job, Arrays]:
    """The same training on one device."""
    workers.have(2)
    job = stack.succeeded(stack.submit(**request_for({"kind": "default"}, BATCH)))
    return job, state_of(stack, job)


@pytest.fixture(scope="module")
def together(stack: Stack, workers: Workers, request_for: Any, alone: Any) -> tuple[Job, Arrays]:
    """The training by two workers, undisturbed."""
    job = stack.succeeded(stack.submit(**request_for(mirrored(), BATCH // 2)), 120)
    return job, state_of(stack, job)


def test_two_workers_learn_what_one_device_learns(stack: Stack, alone: Any, together: Any) -> None:
    assert together[1].keys() == alone[1].keys()
    assert_learned_alike(alone, together)
    two, _ = together
    assert (two.run["replicas"], two.run["batch_size"], two.run["global_batch"]) == (2, 32, 64)
    members = two.run["cluster"]["members"]
    assert [member["name"] for member in members] == ["worker-0", "worker-1"]
    assert members[0]["worker"] == two.worker_id
    assert len({member["worker"] for member in members}) == 2, "auto spreads where there are workers"
    assert two.attempt == 1
    assert not any(alive(pid) for pid in pids(two))
    assert stack.store.gangs.status(two.id) is None
    assert stack.store.gangs.seats_of(members[1]["worker"]) == []
    stages = [event.data["stage"] for event in stack.store.jobs.events(two.id).items if event.type == "stage"]
    assert "waiting_for_workers" in stages
    run_dir = stack.home / "runs" / str(two.run_dir)
    assert (run_dir / "job.worker-1.log").stat().st_size > 0
    assert not list(run_dir.glob(".gang-*"))


def members_of(stack: Stack, job_id: str, attempt: int, step: int) -> Job:
    """The job once that attempt has a checkpoint at ``step`` or later and all its members are known."""

    def reached() -> bool:
        job = stack.job(job_id)
        assert not job.state.terminal, job.error
        cluster = job.run.get("cluster") or {}
        return job.attempt == attempt and len(cluster["members"]) == 2 and all(pids(job))

    until_step(stack, job_id, step)
    stack.until(reached, 60)
    return stack.job(job_id)


def test_whoever_is_killed_the_weights_are_those_of_an_undisturbed_training(
    stack: Stack, workers: Workers, request_for: Any, together: Any
) -> None:
    job_id = stack.submit(**request_for(spread(preflight=False), BATCH // 2))

    job = members_of(stack, job_id, 1, 50)
    os.kill(workers.of(job)[1].pid, signal.SIGKILL)
    stack.until(lambda: not any(map(alive, pids(job))), 30)
    stack.until(lambda: stack.job(job_id).attempts[0].outcome is not None, 30)
    workers.have(2)

    job = members_of(stack, job_id, 2, 100)
    leader = workers.of(job)[0]
    leader.kill()
    leader.wait()
    stack.until(lambda: not alive(pids(job)[0]), 15)
    stack.until(lambda: not alive(pids(job)[1]), 30)  # the lease of 6 s, and a sweep
    workers.have(2)

    job = members_of(stack, job_id, 3, 150)
    os.kill(pids(job)[1], signal.SIGSTOP)
    stack.until(lambda: stack.job(job_id).attempts[2].outcome is not None, 40)
    stack.until(lambda: not any(map(alive, pids(job))), 10)

    job = members_of(stack, job_id, 4, 200)
    member = workers.of(job)[1]
    member.terminate()
    assert member.wait(30) == 0
    workers.have(2)

    done = stack.succeeded(job_id, 120)
    outcomes = [attempt.outcome for attempt in done.attempts]
    assert outcomes[:4] == [
        AttemptOutcome.FAILED,
        AttemptOutcome.LOST,
        AttemptOutcome.FAILED,
        AttemptOutcome.RELEASED,
    ], done.attempts
    errors = [attempt.error and attempt.error["code"] for attempt in done.attempts]
    assert errors[0] == "worker_lost", done.attempts[0].error
    assert errors[1] == "worker_lost"
    assert errors[2] in ("member_lost", "trainer_killed"), done.attempts[2].error
    assert done.result is not None
    assert (done.result["epochs"], done.result["steps"]) == (EPOCHS, EPOCHS * 24)
    for name, value in together[1].items():
        np.testing.assert_array_equal(state_of(stack, done)[name], value, err_msg=name)


def test_parameter_servers_stay_with_the_leader_and_a_worker_elsewhere_comes_and_goes(
    stack: Stack, workers: Workers, request_for: Any, alone: Any
) -> None:
    workers.have(2)
    strategy = {"kind": "parameter_server", "workers": 2, "ps": 1, "placement": "spread"}
    job_id = stack.submit(**request_for(strategy, BATCH, epochs=12))
    job = until_step(stack, job_id, 50)
    members = {member["name"]: member for member in job.run["cluster"]["members"]}
    leader = members["chief-0"]["worker"]
    assert [name for name, one in members.items() if one["worker"] != leader] == ["worker-1"]
    stack.until(lambda: all(pids(stack.job(job_id))), 10)
    os.kill(pids(stack.job(job_id))[3], signal.SIGKILL)
    stack.until(lambda: stack.job(job_id).run["cluster"]["restarts"] == 1, 20)
    done = stack.succeeded(job_id, 120)
    assert done.attempt == 1
    assert done.result is not None
    assert done.result["steps"] == 12 * 24
    assert done.result["metrics"]["test_accuracy"] > 0.8
    assert not any(map(alive, pids(done)))


def test_two_gangs_and_a_job_that_come_at_once_all_succeed(
    stack: Stack, workers: Workers, request_for: Any
) -> None:
    workers.have(2)
    jobs = [stack.submit(**request_for(spread(preflight=False), BATCH // 2, epochs=1)) for _ in range(2)]
    jobs.append(stack.submit(**request_for({"kind": "default"}, BATCH, epochs=1)))
    for job_id in jobs:
        assert stack.succeeded(job_id, 120).attempt == 1


def test_cancel_while_it_waits_for_workers(stack: Stack, workers: Workers, request_for: Any) -> None:
    workers.have(2)
    busy = stack.submit(**request_for({"kind": "default"}, BATCH, epochs=5000))
    stack.until(lambda: stack.job(busy).state is JobState.RUNNING)
    gang = stack.submit(**request_for(spread(), BATCH // 2))
    stack.until(lambda: stack.job(gang).stage == "waiting_for_workers")
    assert stack.job(gang).run["cluster"]["waiting"]["text"] == "1 of 2"
    stack.store.jobs.request_cancel(gang)
    assert stack.until_ended(gang, 20).state is JobState.CANCELLED
    stack.store.jobs.request_cancel(busy)
    stack.until_ended(busy, 30)
