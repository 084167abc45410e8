"""The step of a study, with trials that are ended by hand: what it costs, and what a crash or a race leaves."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event, update

from services.worker.advance import MOST_ERRORS, Advancer
from services.worker.study_sessions import StudySessions
from shared.errors import Unavailable
from shared.home import Home
from shared.jobs import Job, JobError, JobState
from shared.specs import parse_job
from shared.store import Store
from shared.store.schema import studies
from shared.trials import TrialStatus
from shared.tuning.engine import Engine
from shared.tuning.engines import Engines
from tests.builders import migrated, train_request


class Sent:
    """Where ids go; ``down`` as if the broker were."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.down = False

    def send(self, job_id: str, queue: str = "default") -> None:
        if self.down:
            raise Unavailable("down")
        self.ids.append(job_id)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path}/store.db"
    migrated(url)
    opened = Store(url)
    yield opened
    opened.close()


@pytest.fixture
def advancer(store: Store, tmp_path: Path) -> Advancer:
    return _advancer(store, tmp_path)


def _advancer(store: Store, folder: Path) -> Advancer:
    home = Home(folder)
    return Advancer(store, Sent(), Engines(store), home, StudySessions(home))  # type: ignore[arg-type]


def submit(store: Store, **changes: Any) -> str:
    request = {
        "kind": "tune",
        "base": train_request(),
        "space": {"dropout": {"uniform": [0.0, 0.5]}},
        "sampler": "random",
        "parallel": 2,
        **changes,
    }
    return store.jobs.create(parse_job(request))[0].id


def end_one(store: Store, error: str | None = None) -> str | None:
    """End the next queued trial, as a worker would; its objective is its dropout."""
    taken = store.claims.claim_next("w", ["default"], 30)
    if taken is None:
        return None
    claim, job = taken
    trial = store.studies.trial_of(job.id)
    if error is not None:
        store.claims.finish(claim, JobState.FAILED, error=JobError(error, error))
    else:
        values = [trial.params["dropout"]] if trial else None
        store.claims.finish(claim, JobState.SUCCEEDED, result={"values": values})
    return job.id


def ended(store: Store, advancer: Advancer, study_id: str) -> Job:
    """The study, once its time is over."""
    for _ in range(600):
        advancer.advance(study_id)
        job = store.jobs.get(study_id)
        if job.state.terminal:
            return job
        threading.Event().wait(0.05)
    raise AssertionError(job)


def turn_over(store: Store, study_id: str) -> None:
    """As if the lease of whoever has the turn had ended."""
    with store._db.write() as tx:
        tx.execute(update(studies).where(studies.c.job_id == study_id).values(turn_until=0.0))


def test_as_many_trials_as_asked_for_run_at_once(store: Store, advancer: Advancer) -> None:
    study_id = submit(store, max_trials=5)
    advancer.advance(study_id)
    assert len(advancer.queue.ids) == 2  # type: ignore[attr-defined]
    begun = 2
    while end_one(store):
        advancer.advance(study_id)
        begun += 1
    job = store.jobs.get(study_id)
    assert job.state is JobState.SUCCEEDED
    found = store.trials.page(study_id).items
    assert len(found) == 5
    assert (job.result or {})["values"] == [min(trial.params["dropout"] for trial in found)]
    assert (job.progress or {})["fraction"] == 1.0
    advancer.advance(study_id)
    assert store.studies.due() == []


def test_a_step_does_not_cost_more_as_the_study_grows(store: Store, advancer: Advancer) -> None:
    study_id = submit(store, max_trials=40, parallel=1)
    advancer.advance(study_id)
    statements: list[str] = []
    event.listen(store._db.engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    costs = []
    for _ in range(38):
        end_one(store)
        statements.clear()
        advancer.advance(study_id)
        costs.append(len(statements))
    assert max(costs[25:]) <= max(costs[:10]), costs


def test_many_at_once_take_one_turn_each_and_begin_no_trial_twice(store: Store, tmp_path: Path) -> None:
    study_id = submit(store, max_trials=12, parallel=3)
    many = [_advancer(store, tmp_path) for _ in range(4)]

    def work(advancer: Advancer) -> None:
        advancer.advance(study_id)
        while not store.jobs.get(study_id).state.terminal:
            end_one(store)
            advancer.advance(study_id)

    threads = [threading.Thread(target=work, args=(one,)) for one in many]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    found = store.trials.page(study_id).items
    assert [trial.status for trial in found] == [TrialStatus.COMPLETE] * 12
    assert len(store.jobs.find(parent=study_id).items) == 12
    ended = [item for item in store.jobs.events(study_id).items if item.type == "trial_ended"]
    assert len(ended) == 12


def test_who_dies_with_the_turn_is_followed_when_its_lease_has_ended(
    store: Store, advancer: Advancer
) -> None:
    study_id = submit(store)
    assert store.studies.take_turn(study_id, -1.0) is not None  # a second ago
    advancer.advance(study_id)
    assert store.studies.get(study_id).asked == 2


def test_a_broker_that_is_down_delays_trials_only(store: Store, advancer: Advancer) -> None:
    study_id = submit(store)
    advancer.queue.down = True  # type: ignore[attr-defined]
    advancer.advance(study_id)
    assert len(store.claims.unsent(older_than_seconds=-1)) == 2
    assert store.jobs.get(study_id).state is JobState.RUNNING


def test_too_many_failures_end_the_study_and_the_trials_that_wait(store: Store, advancer: Advancer) -> None:
    study_id = submit(store, max_failures=1, parallel=3)
    advancer.advance(study_id)
    for _ in range(2):
        end_one(store, "nan_loss")
        advancer.advance(study_id)
    job = store.jobs.get(study_id)
    assert (job.error or {})["code"] == "too_many_failures"
    statuses = [trial.status for trial in store.trials.page(study_id).items]
    assert statuses.count(TrialStatus.FAILED) == 2
    assert set(statuses[2:]) == {TrialStatus.CANCELLED}


def test_a_study_out_of_time_ends_with_what_it_has(store: Store, advancer: Advancer) -> None:
    study_id = submit(store, timeout_seconds=0.2)
    advancer.advance(study_id)
    end_one(store)
    assert store.studies.get(study_id).wake_at is not None, "nobody need wake it"
    job = ended(store, advancer, study_id)
    assert job.state is JobState.SUCCEEDED
    statuses = [trial.status for trial in store.trials.page(study_id).items]
    assert statuses.count(TrialStatus.COMPLETE) == 1
    assert statuses.count(TrialStatus.CANCELLED) == len(statuses) - 1 > 0


def test_a_study_past_its_deadline_fails(store: Store, advancer: Advancer) -> None:
    study_id = submit(store, deadline={"run_seconds": 0.1})
    advancer.advance(study_id)
    assert (ended(store, advancer, study_id).error or {})["code"] == "deadline"


def test_trials_inherit_where_and_for_whom_they_run(store: Store, advancer: Advancer) -> None:
    study_id = submit(store, project="plants", priority=7, queue="big", name="roots")
    advancer.advance(study_id)
    job = store.jobs.find(parent=study_id).items[-1]
    assert {name: job.spec[name] for name in ("project", "priority", "queue", "name")} == {
        "project": "plants", "priority": 7, "queue": "big", "name": "roots trial 0",
    }  # fmt: skip


def test_parameters_that_make_no_job_together_are_a_failed_trial(store: Store, advancer: Advancer) -> None:
    schedule: dict[str, Any] = {
        "name": "ExponentialDecay",
        "params": {"initial_learning_rate": 0.01, "decay_steps": 9, "decay_rate": 0.9},
    }
    space: dict[str, Any] = {
        "dropout": {"choice": [0.1]},
        "fit.learning_rate": {"choice": [0.01, schedule]},
        "fit.callbacks": {"choice": [[], [{"name": "ReduceLROnPlateau"}]]},
    }
    plateau = space["fit.callbacks"]["choice"][1]
    study_id = submit(store, space=space, max_trials=8, parallel=1)
    advancer.advance(study_id)
    while end_one(store):
        advancer.advance(study_id)
    found = store.trials.page(study_id).items
    failed = [trial for trial in found if trial.status is TrialStatus.FAILED]
    assert store.jobs.get(study_id).state is JobState.SUCCEEDED
    assert len(found) == 8
    assert 0 < len(failed) < 8
    for trial in found:
        apart = trial.params["fit.learning_rate"] != schedule or trial.params["fit.callbacks"] != plateau
        assert (trial.status is TrialStatus.COMPLETE) == apart
    assert {(trial.error or {})["code"] for trial in failed} == {"parameters_invalid"}
    assert "ReduceLROnPlateau sets the learning rate" in (failed[0].error or {})["message"]


def test_a_worker_killed_before_a_study_has_its_inheritance_leaves_it_to_another(
    store: Store, advancer: Advancer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = {"space": {"dropout": {"choice": [0.1, 0.2, 0.3]}}, "sampler": "grid"}
    first = submit(store, **grid, max_trials=2)
    advancer.advance(first)
    while end_one(store):
        advancer.advance(first)
    second = submit(store, **grid, continue_from=first)

    def killed(*_: Any, **__: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patched:
        patched.setattr(store.studies, "inherit", killed)
        with pytest.raises(SystemExit):
            advancer.advance(second)
    assert store.jobs.get(second).state is JobState.RUNNING
    turn_over(store, second)
    other = _advancer(store, tmp_path)
    other.advance(second)
    found = store.studies.get(second)
    assert (found.inherited, found.asked) == (2, 1)
    assert [trial.params["dropout"] for trial in store.trials.page(second).items] == [0.1, 0.2, 0.3]
    assert (store.jobs.get(second).progress or {})["trials"]["total"] == 1


def test_a_study_whose_steps_fail_again_and_again_fails_and_keeps_its_trials(
    store: Store, advancer: Advancer, monkeypatch: pytest.MonkeyPatch
) -> None:
    study_id = submit(store)
    advancer.advance(study_id)
    end_one(store)

    def broken(*_: Any) -> None:
        raise RuntimeError("a defect")

    monkeypatch.setattr(Engine, "tell", broken)
    for count in range(MOST_ERRORS):
        assert store.jobs.get(study_id).state is JobState.RUNNING, count
        store.studies.wake(study_id)
        advancer.advance(study_id)
    job = store.jobs.get(study_id)
    assert job.state is JobState.FAILED
    assert (job.error or {})["code"] == "internal"
    assert "RuntimeError: a defect" in (job.error or {})["message"]
    assert [trial.status for trial in store.trials.page(study_id).items] == ["complete", "cancelled"]
    assert store.studies.get(study_id).best == 0
    assert end_one(store) is None, "nothing waits for a worker"
    advancer.advance(study_id)
    assert store.studies.due() == []
