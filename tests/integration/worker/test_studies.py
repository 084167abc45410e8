"""Studies on real workers, with real processes killed."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from shared.jobs import JobState
from shared.trials import TrialStatus
from tests.conftest import Broker
from tests.integration.worker.conftest import Stack

pytestmark = [pytest.mark.tf, pytest.mark.slow, pytest.mark.timeout(900)]
PATIENCE = 400  # seconds; alone on a machine a study here takes ten
Request = Callable[..., dict[str, Any]]


@pytest.fixture
def study(digits_job: Request) -> Request:
    def request(*, epochs: int = 1, fit: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
        base = digits_job(epochs=epochs, fit=fit or {})
        del base["tensorboard"]
        return {
            "kind": "tune",
            "base": base,
            "space": {"units": {"choice": ["16", "32,16"]}},
            "objective": {"metric": "val_accuracy", "mode": "max"},
            **changes,
        }

    return request


def trials(stack: Stack, study_id: str) -> list[Any]:
    return stack.store.trials.page(study_id, limit=1000).items


def told(stack: Stack, study_id: str) -> list[int]:
    """Numbers of the trials in the order in which they were told."""
    events, after = [], 0
    while True:
        page = stack.store.jobs.events(study_id, after=after)
        events += [event.data["number"] for event in page.items if event.type == "trial_ended"]
        if not page.has_more:
            return events
        after = page.items[-1].seq


def amid_a_trial(stack: Stack, study_id: str, pid: int) -> bool:
    """Whether the worker of that process has begun with a trial and is far from its end."""
    (worker_id,) = (one.id for one in stack.store.workers.find() if one.pid == pid)
    jobs = stack.store.jobs.find(parent=study_id, limit=100).items
    mine = [job for job in jobs if job.state is JobState.RUNNING and job.worker_id == worker_id]
    return any(2 <= (job.progress or {}).get("epoch", 0) <= 10 for job in mine)


def test_the_textbooks_grid_is_one_request_and_its_best_trial_is_served(
    running: Stack, study: Request
) -> None:
    space = {
        "units": {"choice": ["128,64", "256,128"]},
        "dropout": {"uniform": [0.0, 0.1]},
        "fit.optimizer": {"choice": ["adam", "sgd"]},
    }
    study_id = running.submit(
        **study(space=space, sampler="grid", publish={"model": "digits", "label": "stable"})
    )
    job = running.succeeded(study_id, PATIENCE)
    found = trials(running, study_id)
    assert [trial.status for trial in found] == [TrialStatus.COMPLETE] * 8
    assert [trial.params["dropout"] for trial in found] == [0.0, 0.0, 0.1, 0.1] * 2
    assert sorted(told(running, study_id)) == list(range(8))
    best = max(found, key=lambda trial: (trial.values[0], -trial.number))
    result = job.result or {}
    assert (result["trial"], result["model"], result["version"]) == (best.number, "digits", 1)
    assert result["params"] == best.params
    assert running.store.models.version("digits", 1).lineage["source"] == {"job_id": best.job_id}
    answer = httpx.post(
        f"{running.settings.serving_url}/v1/models/digits:predict",
        json={"instances": [[[[0]] * 8] * 8]},
    )
    assert len(answer.json()["predictions"][0]) == 10
    kept = [
        trial.number
        for trial in found
        if (running.home / "runs" / trial.run_dir / "kept/model.keras").is_file()
    ]
    assert kept == [best.number], "weights that nobody wants are gone"
    assert job.worker_id is None
    assert job.attempts == ()
    assert (job.progress or {})["trials"]["complete"] == 8


def test_killed_workers_and_a_broker_that_forgets_lose_no_trial_and_tell_none_twice(
    tmp_path: Path, broker: Broker, study: Request
) -> None:
    stack = Stack(tmp_path / "home", broker, lease_seconds=3, heartbeat_seconds=0.5)
    stack.settings.paths.create()
    try:
        first = stack.worker()
        second = stack.worker()
        study_id = stack.submit(**study(epochs=40, sampler="random", max_trials=6, parallel=3))
        stack.until(lambda: told(stack, study_id) and amid_a_trial(stack, study_id, first.pid), PATIENCE)
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        stack.until(lambda: len(told(stack, study_id)) >= 2, PATIENCE)
        stack.broker.stop()
        shutil.rmtree(stack.broker.folder / "appendonlydir")
        os.kill(second.pid, signal.SIGKILL)
        second.wait()
        stack.broker.start()
        stack.worker()
        job = stack.succeeded(study_id, PATIENCE)
        found = trials(stack, study_id)
        assert [trial.status for trial in found] == [TrialStatus.COMPLETE] * 6
        assert sorted(told(stack, study_id)) == list(range(6))
        jobs = [stack.job(trial.job_id) for trial in found]
        assert len(stack.store.jobs.find(parent=study_id, limit=100).items) == 6, "no trial was begun twice"
        assert all((one.result or {})["epochs"] == 40 for one in jobs)
        assert any(one.attempt > 1 for one in jobs), "a lost trial went on"
        assert job.attempt == 0
    finally:
        stack.close()


def test_cancelling_a_study_cancels_its_trials_and_it_can_be_continued(
    running: Stack, study: Request
) -> None:
    request = study(sampler="random", max_trials=50, parallel=2, fit={"epochs": 3})
    study_id = running.submit(**request)
    running.until(lambda: len(told(running, study_id)) >= 2, PATIENCE)
    running.store.jobs.request_cancel(study_id, "a test")
    job = running.until_ended(study_id, PATIENCE)
    assert job.state is JobState.CANCELLED
    assert "a test" in (job.error or {})["message"]
    found = trials(running, study_id)
    assert {trial.status for trial in found} == {TrialStatus.COMPLETE, TrialStatus.CANCELLED}
    assert all(running.job(trial.job_id).state.terminal for trial in found)
    complete = [trial for trial in found if trial.status is TrialStatus.COMPLETE]
    more = running.submit(**{**request, "max_trials": 1, "continue_from": study_id})
    result = running.succeeded(more, PATIENCE).result or {}
    known = trials(running, more)
    assert [trial.job_id for trial in known[:-1]] == [trial.job_id for trial in complete]
    assert result["values"] == [max(trial.values[0] for trial in known)]


def test_a_failed_trial_is_a_result_and_too_many_end_the_study(running: Stack, study: Request) -> None:
    space = {"fit.batch_size": {"choice": [100_000, 50, 200_000, 300_000]}}
    request = study(space=space, sampler="grid", parallel=1)
    job = running.succeeded(running.submit(**request), PATIENCE)
    assert [trial.status for trial in trials(running, job.id)] == ["failed", "complete", "failed", "failed"]
    assert (job.result or {})["params"] == {"fit.batch_size": 50}
    job = running.until_ended(running.submit(**{**request, "max_failures": 1}), PATIENCE)
    assert job.state is JobState.FAILED
    assert (job.error or {})["code"] == "too_many_failures"
    assert [trial.status for trial in trials(running, job.id)] == ["failed", "complete", "failed"]


def test_an_objective_that_no_trial_has_ends_the_study_at_the_first(running: Stack, study: Request) -> None:
    job = running.until_ended(
        running.submit(**study(epochs=5, objective="val_auc", sampler="grid")), PATIENCE
    )
    assert (job.error or {})["code"] == "objective_missing"
    assert "val_accuracy" in (job.error or {})["message"]


def test_bad_trials_are_ended_early_and_the_same_seed_gives_the_same_trials(
    running: Stack, study: Request
) -> None:
    request = study(
        epochs=8,
        fit={"optimizer": "sgd"},
        space={"fit.learning_rate": {"choice": [0.3, 1e-7, 1e-6]}},
        sampler="grid",
        pruner={"name": "median", "startup_trials": 1, "warmup_epochs": 1},
        parallel=1,
    )
    first, second = (running.succeeded(running.submit(**request), PATIENCE) for _ in range(2))
    found = trials(running, first.id)
    assert [trial.status for trial in found] == ["complete", "pruned", "pruned"]
    assert [trial.intermediate[-1][0] for trial in found if trial.status == "pruned"] == [2, 2]
    pruned = running.job(found[1].job_id)
    assert pruned.state is JobState.CANCELLED
    assert (pruned.error or {})["code"] == "pruned"
    again = trials(running, second.id)
    assert [(one.params, one.status, one.values, one.intermediate) for one in again] == [
        (one.params, one.status, one.values, one.intermediate) for one in found
    ]
