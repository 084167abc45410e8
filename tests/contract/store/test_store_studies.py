"""Studies in the store: one turn at a time, trials begun and told once, ends that wake their study."""

from __future__ import annotations

from typing import Any

import pytest

from shared.errors import NotFound, StaleClaim
from shared.jobs import JobError, JobState, MetricPoint
from shared.specs import ExportJob, TuneJob, parse_job
from shared.store import NewTrial, Report, Store
from shared.trials import Told, TrialSource, TrialStatus, Turn
from tests.builders import train_request, train_spec


def tune_spec(**changes: Any) -> TuneJob:
    space = {"units": {"choice": ["8", "16"]}}
    found = parse_job({"kind": "tune", "base": train_request(), "space": space, **changes})
    assert isinstance(found, TuneJob)
    return found


def begun(store: Store, **changes: Any) -> Turn:
    job, _ = store.jobs.create(tune_spec(**changes))
    turn = store.studies.take_turn(job.id, 30)
    assert turn is not None
    store.studies.begin(turn, f"studies/{job.id}")
    return turn


def new(number: int) -> NewTrial:
    return NewTrial(
        number, TrialSource.SAMPLER, {"units": "8"}, {}, train_spec(), {}, f"studies/x/trial-{number}"
    )


def end(store: Store, job_id: str, value: float) -> None:
    taken = store.claims.claim(job_id, "w", 30)
    assert taken is not None
    store.claims.report(taken[0], Report(points=[MetricPoint("val_loss", 1, 1, value, 0.0)]))
    store.claims.finish(taken[0], JobState.SUCCEEDED, result={"values": [value]})


def test_a_study_is_due_at_once_and_no_worker_can_claim_it(store: Store) -> None:
    job, _ = store.jobs.create(tune_spec())
    assert store.studies.due() == [job.id]
    assert store.claims.claim(job.id, "w", 30) is None
    assert store.claims.claim_next("w", ["default"], 30) is None


def test_one_turn_at_a_time_and_a_stale_one_is_refused(store: Store) -> None:
    job, _ = store.jobs.create(tune_spec())
    first = store.studies.take_turn(job.id, -1.0)
    assert first is not None
    second = store.studies.take_turn(job.id, 30)
    assert second is not None, "the lease of the first one has ended"
    assert store.studies.take_turn(job.id, 30) is None
    for write in (
        lambda: store.studies.begin(first, "x"),
        lambda: store.studies.record(first, wanted=[new(0)]),
        lambda: store.studies.finish(first, JobState.SUCCEEDED),
        lambda: store.studies.end_turn(first, wake_in=None),
    ):
        with pytest.raises(StaleClaim):
            write()
    assert store.studies.get(job.id).asked == 0
    assert store.jobs.get(job.id).state is JobState.QUEUED


def test_a_running_study_is_no_lost_job(store: Store) -> None:
    turn = begun(store)
    assert store.claims.sweep().requeued == []
    job = store.jobs.get(turn.study_id)
    assert (job.state, job.stage, job.attempts) == (JobState.RUNNING, "tuning", ())


def test_trials_are_jobs_and_are_numbered_without_gaps(store: Store) -> None:
    turn = begun(store)
    ids = store.studies.record(turn, wanted=[new(0), new(1)], attrs={"k": 1})
    with pytest.raises(StaleClaim):
        store.studies.record(turn, wanted=[new(1)])
    assert [job.id for job in store.jobs.find(parent=turn.study_id).items] == ids[::-1]
    assert [job.id for job in store.jobs.find().items] == [turn.study_id], (
        "trials do not fill the list of jobs"
    )
    assert store.studies.get(turn.study_id).attrs == {"k": 1}
    trial = store.studies.trial_of(ids[1])
    assert trial is not None
    assert (trial.number, trial.status) == (1, TrialStatus.WAITING)
    store.claims.claim(ids[1], "w", 30)
    assert store.studies.trial(turn.study_id, 1).status is TrialStatus.RUNNING
    running = store.trials.page(turn.study_id, status=TrialStatus.RUNNING).items
    assert [item.number for item in running] == [1]
    with pytest.raises(NotFound):
        store.studies.trial(turn.study_id, 2)


def test_the_end_of_a_trial_wakes_its_study_in_the_same_transaction(store: Store) -> None:
    turn = begun(store)
    ids = store.studies.record(turn, wanted=[new(0), new(1)])
    assert store.studies.end_turn(turn, wake_in=None) is False
    assert store.studies.due() == []
    end(store, ids[0], 0.5)
    assert store.studies.due() == [turn.study_id]
    turn_two = store.studies.take_turn(turn.study_id, 30)
    assert turn_two is not None
    store.jobs.request_cancel(ids[1])
    assert store.studies.end_turn(turn_two, wake_in=None) is True, "woken while the turn was held"
    assert store.studies.due() == [turn.study_id]


def test_a_trial_is_told_once(store: Store) -> None:
    turn = begun(store)
    [job_id] = store.studies.record(turn, wanted=[new(0)])
    end(store, job_id, 0.5)
    told = Told(0, TrialStatus.COMPLETE, [0.5], [(1, 0.5)])
    store.studies.record(turn, told=[told], best=0)
    store.studies.record(turn, told=[Told(0, TrialStatus.FAILED)], best=0)
    study = store.studies.get(turn.study_id)
    assert (study.complete, study.failed, study.best, study.open) == (1, 0, 0, 0)
    trial = store.studies.trial(turn.study_id, 0)
    assert (trial.status, trial.values, trial.intermediate) == (TrialStatus.COMPLETE, [0.5], [(1, 0.5)])
    events = [event.type for event in store.jobs.events(turn.study_id).items]
    assert events.count("trial_ended") == 1


def test_only_what_has_changed_is_read_again(store: Store) -> None:
    turn = begun(store)
    ids = store.studies.record(turn, wanted=[new(0), new(1)])
    study, rows = store.studies.since(turn.study_id)
    assert [row.number for row in rows] == [0, 1]
    store.studies.note_pruning(turn.study_id, 1, attrs={"rung": 1}, stop_epoch=3)
    study, rows = store.studies.since(turn.study_id, study.revision)
    assert [(row.number, row.attrs, row.stop_epoch) for row in rows] == [(1, {"rung": 1}, 3)]
    end(store, ids[0], 0.5)
    store.studies.record(turn, told=[Told(0, TrialStatus.COMPLETE, [0.5])], best=0)
    store.studies.note_pruning(turn.study_id, 0, attrs={"late": 1}, stop_epoch=1)
    _, rows = store.studies.since(turn.study_id, study.revision)
    assert [(row.number, row.attrs, row.stop_epoch) for row in rows] == [(0, {}, None)]


def test_a_cancelled_study_begins_no_trial_and_its_queued_ones_end(store: Store) -> None:
    turn = begun(store)
    ids = store.studies.record(turn, wanted=[new(0), new(1)])
    store.claims.claim(ids[0], "w", 30)
    store.jobs.request_cancel(turn.study_id, "me")
    assert store.jobs.get(ids[0]).cancel_requested
    assert store.jobs.get(ids[1]).state is JobState.CANCELLED
    assert store.studies.record(turn, wanted=[new(2)]) == []
    store.studies.finish(turn, JobState.CANCELLED)
    job = store.jobs.get(turn.study_id)
    assert job.state is JobState.CANCELLED
    assert "me" in (job.error or {})["message"]
    with pytest.raises(StaleClaim):
        store.studies.finish(turn, JobState.FAILED, error=JobError("x", "y"))


def test_trials_of_another_study_are_taken_over_once(store: Store) -> None:
    old = begun(store)
    [job_id] = store.studies.record(old, wanted=[new(0)])
    end(store, job_id, 0.5)
    store.studies.record(old, told=[Told(0, TrialStatus.COMPLETE, [0.5], [(1, 0.5)])], best=0)
    _, rows = store.studies.since(old.study_id)
    turn = begun(store)
    for _ in range(2):
        store.studies.inherit(turn, rows, best=0, attrs={"q": 2})
    study, taken = store.studies.since(turn.study_id)
    assert (study.inherited, study.asked, study.best, study.attrs) == (1, 0, 0, {"q": 2})
    assert [(one.source, one.job_id, one.values) for one in taken] == [(TrialSource.INHERITED, job_id, [0.5])]
    assert len(store.studies.record(turn, wanted=[new(1)])) == 1
    trial = store.studies.trial_of(job_id)
    assert trial is not None
    assert trial.study_id == old.study_id, "it stays its own study's"


def test_an_inherited_trial_outlives_its_job(store: Store) -> None:
    old = begun(store)
    [job_id] = store.studies.record(old, wanted=[new(0)])
    end(store, job_id, 0.5)
    store.studies.record(old, told=[Told(0, TrialStatus.COMPLETE, [0.5])], best=0)
    store.studies.finish(old, JobState.SUCCEEDED)
    turn = begun(store)
    store.studies.inherit(turn, store.studies.since(old.study_id)[1], best=0, attrs={})
    store.studies.record(turn, wanted=[new(1)])
    assert store.ended_jobs.forget(old.study_id, store.ended_jobs.in_use())
    assert [trial.number for trial in store.studies.since(turn.study_id)[1]] == [0, 1]
    page = store.trials.page(turn.study_id, order="value").items
    assert [(trial.number, trial.values, trial.metrics) for trial in page] == [(0, [0.5], {}), (1, None, {})]
    assert [trial.number for trial, _ in store.studies.open(turn.study_id)] == [1]


def test_the_best_trial_is_published_by_one_job(store: Store) -> None:
    turn = begun(store)
    export = ExportJob.model_validate(
        {"kind": "export", "from": {"job": turn.study_id}, "publish": {"model": "m"}}
    )
    first = store.studies.publish(turn, export)
    assert store.studies.publish(turn, export) == first
    assert store.jobs.get(first).parent_id == turn.study_id
