"""What every store promises about failed attempts, deadlines and cancelled jobs."""

from __future__ import annotations

import time

import pytest

from shared.jobs import AttemptOutcome, Claim, JobError, JobState
from shared.store import Store
from tests.builders import train_spec


def queued(store: Store, **changes: object) -> str:
    return store.jobs.create(train_spec(**changes))[0].id


def claimed(store: Store, job_id: str, lease: float = 30.0) -> Claim:
    taken = store.claims.claim(job_id, "w1", lease)
    assert taken is not None
    return taken[0]


def fail(store: Store, claim: Claim, code: str) -> JobState:
    return store.claims.release(claim, AttemptOutcome.FAILED, error=JobError(code, "No."), counts=True)


def test_what_a_retry_can_not_help_ends_the_job_at_once(store: Store) -> None:
    job_id = queued(store)
    assert fail(store, claimed(store, job_id), "shape_mismatch") is JobState.FAILED
    job = store.jobs.get(job_id)
    assert job.error == {"code": "shape_mismatch", "message": "No."}
    assert job.attempts[0].outcome is AttemptOutcome.FAILED
    assert job.finished_at is not None


def test_memory_is_tried_once_more_however_many_attempts_are_left(store: Store) -> None:
    job_id = queued(store, retry={"max_attempts": 50})
    assert fail(store, claimed(store, job_id), "oom_host") is JobState.QUEUED
    assert fail(store, claimed(store, job_id), "worker_lost") is JobState.QUEUED
    assert fail(store, claimed(store, job_id), "oom_host") is JobState.FAILED
    job = store.jobs.get(job_id)
    assert job.error is not None
    assert job.error["message"] == "Attempt 3 ended like one before. No."
    assert [attempt.error and attempt.error["code"] for attempt in job.attempts] == [
        "oom_host", "worker_lost", "oom_host",
    ]  # fmt: skip


def test_the_owner_narrows_retries_and_a_lost_worker_is_one_of_them(store: Store) -> None:
    job_id = queued(store, retry={"on": ["trainer_killed"]})
    assert fail(store, claimed(store, job_id), "trainer_killed") is JobState.QUEUED
    claimed(store, job_id, lease=0.01)
    time.sleep(0.05)
    assert store.claims.sweep().ended == [job_id]
    error = store.jobs.get(job_id).error
    assert error is not None
    assert error["code"] == "worker_lost"


def test_a_full_disk_is_waited_for_and_nobody_takes_the_job_meanwhile(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.failure_codes.BACKOFF_SECONDS", (0.4,))
    job_id = queued(store)
    assert fail(store, claimed(store, job_id), "disk_full") is JobState.QUEUED
    job = store.jobs.get(job_id)
    assert job.not_before is not None
    assert store.claims.claim(job_id, "w2", 30) is None
    assert store.claims.unsent(older_than_seconds=-1) == []
    assert store.jobs.events(job_id).items[-1].data["retry_in_seconds"] == 0.4
    time.sleep(0.5)
    assert store.claims.unsent(older_than_seconds=-1) == [job_id]
    claimed(store, job_id)
    assert store.jobs.get(job_id).not_before is None


def test_a_job_queued_past_its_deadline_fails_and_is_not_taken(store: Store) -> None:
    late, patient = (
        queued(store, deadline={"queue_seconds": 0.1}),
        queued(store, deadline={"queue_seconds": 60}),
    )
    assert store.claims.end_overdue() == []
    time.sleep(0.2)
    assert store.claims.claim(late, "w1", 30) is None
    assert store.claims.end_overdue() == [late]
    assert store.claims.end_overdue() == []
    job = store.jobs.get(late)
    assert job.state is JobState.FAILED
    assert job.error is not None
    assert (job.error["code"], "0.1 s" in job.error["message"]) == ("deadline", True)
    assert store.jobs.get(patient).state is JobState.QUEUED


def test_a_job_taken_in_time_has_no_queue_deadline_until_it_is_queued_again(store: Store) -> None:
    job_id = queued(store, deadline={"queue_seconds": 0.3})
    claim = claimed(store, job_id)
    time.sleep(0.4)
    assert store.claims.end_overdue() == []
    store.claims.release(claim, AttemptOutcome.RELEASED, counts=False)
    assert store.claims.end_overdue() == []
    time.sleep(0.4)
    assert store.claims.end_overdue() == [job_id]


def test_a_lost_attempt_ended_when_its_lease_did(store: Store) -> None:
    """The night that a machine was off is not running time."""
    claim = claimed(store, queued(store), lease=0.1)
    time.sleep(0.6)
    store.claims.expire_leases(["w1"])
    store.claims.sweep()
    attempt = store.jobs.get(claim.job_id).attempts[0]
    assert attempt.finished_at is not None
    assert attempt.finished_at - attempt.started_at < 0.3


def test_a_cancelled_job_says_who_asked_and_when(store: Store) -> None:
    waiting, running = queued(store), queued(store)
    claim = claimed(store, running)
    for job_id in (waiting, running):
        store.jobs.request_cancel(job_id, by="a client at 10.0.0.7")
    store.claims.finish(claim, JobState.CANCELLED)
    for job_id, when in ((waiting, "before a worker took it up"), (running, "in attempt 1")):
        job = store.jobs.get(job_id)
        assert job.state is JobState.CANCELLED
        assert job.error is not None
        assert job.error["code"] == "cancelled"
        assert job.error["message"].startswith("Cancelled by a client at 10.0.0.7 at 20")
        assert when in job.error["message"]
        assert "retry" in job.error["hint"]
    assert store.jobs.get(running).attempts[0].outcome is AttemptOutcome.CANCELLED
