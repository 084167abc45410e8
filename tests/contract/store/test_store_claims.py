"""What every store promises about claims: one winner, fenced writes, leases that end."""

from __future__ import annotations

import time
from collections import Counter

import pytest

from shared.errors import StaleClaim
from shared.jobs import AttemptOutcome, Claim, JobError, JobState
from shared.store import Publication, Report, Store
from tests.builders import train_spec
from tests.contract.store.racing import RACING


def queued(store: Store, **changes: object) -> str:
    return store.jobs.create(train_spec(**changes))[0].id


def claimed(store: Store, job_id: str, lease: float = 30.0, worker: str = "w1") -> Claim:
    taken = store.claims.claim(job_id, worker, lease)
    assert taken is not None
    return taken[0]


def _race(url: str, job_ids: list[str], name: str, gate: object, wins: object) -> None:
    store = Store(url)
    gate.wait()  # type: ignore[attr-defined]
    for job_id in job_ids:
        taken = store.claims.claim(job_id, name, 30)
        if taken is not None:
            wins.put((job_id, taken[0].token))  # type: ignore[attr-defined]
    store.close()
    wins.put(None)  # type: ignore[attr-defined]


def test_of_many_processes_that_race_for_a_job_one_wins(url: str, store: Store) -> None:
    job_ids = [queued(store) for _ in range(25)]
    racers = 8
    gate, wins = RACING.Barrier(racers), RACING.Queue()
    processes = [
        RACING.Process(target=_race, args=(url, job_ids, f"w{n}", gate, wins)) for n in range(racers)
    ]
    for process in processes:
        process.start()
    won: list[tuple[str, str]] = []
    ended = 0
    while ended < racers:
        item = wins.get(timeout=60)
        if item is None:
            ended += 1
        else:
            won.append(item)
    for process in processes:
        process.join(30)
        assert process.exitcode == 0
    assert Counter(job_id for job_id, _ in won) == Counter(job_ids)
    for job_id in job_ids:
        job = store.jobs.get(job_id)
        assert (job.state, job.attempt, len(job.attempts)) == (JobState.RUNNING, 1, 1)


def test_every_write_with_a_stale_token_is_refused_and_changes_nothing(store: Store) -> None:
    job_id = queued(store, publish={"model": "m"})
    old = claimed(store, job_id, lease=0.05)
    time.sleep(0.1)
    assert store.claims.sweep().requeued == [job_id]
    new = claimed(store, job_id, worker="w2")
    before = store.jobs.get(job_id), store.jobs.events(job_id).items
    placed: list[int] = []

    def place(lowest: int) -> int:
        placed.append(lowest)
        return lowest

    publication = Publication(1, {}, {}, None, {})
    for write in (
        lambda: store.claims.renew(old, 30),
        lambda: store.claims.report(old, Report(stage="training", events=[("epoch", {})])),
        lambda: store.claims.finish(old, JobState.SUCCEEDED),
        lambda: store.claims.release(old, AttemptOutcome.RELEASED, counts=False),
        lambda: store.claims.cancel_requested(old),
        lambda: store.models.publish(old, "m", publication, place=place),
    ):
        with pytest.raises(StaleClaim):
            write()
    assert placed == []
    assert (store.jobs.get(job_id), store.jobs.events(job_id).items) == before
    store.claims.finish(new, JobState.SUCCEEDED, result={"version": 1})
    assert store.jobs.get(job_id).state is JobState.SUCCEEDED


def test_a_finished_job_refuses_late_writers(store: Store) -> None:
    claim = claimed(store, queued(store))
    store.claims.finish(claim, JobState.FAILED, error=JobError("nan_loss", "The loss is NaN."))
    with pytest.raises(StaleClaim):
        store.claims.finish(claim, JobState.SUCCEEDED)
    job = store.jobs.get(claim.job_id)
    assert job.error == {"code": "nan_loss", "message": "The loss is NaN."}
    assert job.attempts[0].outcome is AttemptOutcome.FAILED
    assert job.lease_until is None


def test_a_renewed_lease_is_not_swept_and_an_ended_one_is_queued_again(store: Store) -> None:
    kept, lost = claimed(store, queued(store), lease=0.2), claimed(store, queued(store), lease=0.2)
    time.sleep(0.1)
    store.claims.renew(kept, 30)
    time.sleep(0.2)
    swept = store.claims.sweep()
    assert swept.requeued == [lost.job_id]
    assert swept.ended == []
    job = store.jobs.get(lost.job_id)
    assert job.state is JobState.QUEUED
    assert job.attempts[0].outcome is AttemptOutcome.LOST
    assert job.attempts[0].error is not None
    assert job.attempts[0].error["code"] == "worker_lost"
    assert store.jobs.get(kept.job_id).state is JobState.RUNNING


def test_a_lost_job_is_given_up_after_its_attempts(store: Store) -> None:
    job_id = queued(store, retry={"max_attempts": 2})
    for expected in (JobState.QUEUED, JobState.FAILED):
        claimed(store, job_id, lease=0.01)
        time.sleep(0.05)
        store.claims.sweep()
        assert store.jobs.get(job_id).state is expected
    job = store.jobs.get(job_id)
    assert job.error is not None
    assert job.error["code"] == "worker_lost"
    assert "2 of 2" in job.error["message"]
    assert len(job.attempts) == 2


def test_a_job_put_back_by_a_worker_told_to_stop_does_not_use_up_an_attempt(store: Store) -> None:
    job_id = queued(store, retry={"max_attempts": 1})
    for _ in range(3):
        claim = claimed(store, job_id)
        assert store.claims.release(claim, AttemptOutcome.RELEASED, counts=False) is JobState.QUEUED
    assert store.jobs.get(job_id).attempt == 3


def test_a_lost_job_that_was_asked_to_cancel_ends_as_cancelled(store: Store) -> None:
    claim = claimed(store, queued(store), lease=0.01)
    store.jobs.request_cancel(claim.job_id)
    time.sleep(0.05)
    assert store.claims.sweep().ended == [claim.job_id]
    assert store.jobs.get(claim.job_id).state is JobState.CANCELLED


def test_sweeping_from_many_processes_handles_each_job_once(url: str, store: Store) -> None:
    ids = [claimed(store, queued(store), lease=0.01).job_id for _ in range(20)]
    time.sleep(0.05)
    with RACING.Pool(4) as pool:
        results = pool.map(_sweep, [url] * 4)
    assert sorted(job_id for found in results for job_id in found) == sorted(ids)
    assert all(store.jobs.get(job_id).event_seq == 3 for job_id in ids)


def _sweep(url: str) -> list[str]:
    store = Store(url)
    try:
        return store.claims.sweep().requeued
    finally:
        store.close()


def test_leases_of_workers_known_to_be_dead_end_at_once(store: Store) -> None:
    mine, other = claimed(store, queued(store), worker="dead"), claimed(store, queued(store), worker="alive")
    assert store.claims.expire_leases(["dead"]) == 1
    assert store.claims.sweep().requeued == [mine.job_id]
    assert store.jobs.get(other.job_id).state is JobState.RUNNING


def test_unsent_jobs_are_found_until_they_are_marked(store: Store) -> None:
    job_id = queued(store)
    assert store.claims.unsent(older_than_seconds=60) == []
    assert store.claims.unsent(older_than_seconds=-1) == [job_id]
    store.jobs.mark_sent(job_id)
    assert store.claims.unsent(older_than_seconds=-1) == []
    assert store.claims.sent_long_ago(seconds=-1, limit=5) == [job_id]
    assert store.claims.sent_long_ago(seconds=60, limit=5) == []


def test_numbers_that_are_not_finite_are_stored_as_null(store: Store) -> None:
    claim = claimed(store, queued(store))
    store.claims.report(claim, Report(metrics={"latest": {"loss": float("nan"), "x": float("inf")}}))
    assert store.jobs.get(claim.job_id).metrics == {"latest": {"loss": None, "x": None}}
