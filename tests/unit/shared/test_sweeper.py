"""The sweeper on a real store, with a queue that remembers and may be down."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import text

from shared.errors import Unavailable
from shared.jobs import JobState
from shared.store import Store
from shared.sweeper import Sweeper
from tests.builders import migrated, train_spec


class Queue:
    """Stands in for the broker."""

    def __init__(self) -> None:
        self.sent: list[str] = []
        self.down = False
        self.waiting = 0

    def send(self, job_id: str, queue: str = "default") -> None:
        if self.down:
            raise Unavailable("The broker does not answer.")
        self.sent.append(job_id)

    def depth(self, *queues: str) -> int:
        if self.down:
            raise Unavailable("The broker does not answer.")
        return self.waiting


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    url = f"sqlite:///{tmp_path / 'store.db'}"
    migrated(url)
    store = Store(url)
    yield store
    store.close()


@pytest.fixture
def queue() -> Queue:
    return Queue()


@pytest.fixture
def sweeper(store: Store, queue: Queue) -> Sweeper:
    return Sweeper(store, queue, every_seconds=0.05)  # type: ignore[arg-type]


def _age(store: Store, column: str, seconds: float) -> None:
    """Make a time of all jobs older."""
    with store._db.write() as tx:
        tx.execute(text(f"UPDATE jobs SET {column} = {column} - {seconds}"))


def test_forgotten_ids_are_sent_once(store: Store, queue: Queue, sweeper: Sweeper) -> None:
    jobs = [store.jobs.create(train_spec())[0].id for _ in range(3)]
    assert sweeper.sweep_once().sent == [], "the request that made them is about to send them itself"
    _age(store, "updated_at", 2)
    assert sweeper.sweep_once().sent == jobs
    assert sweeper.sweep_once().sent == []
    assert queue.sent == jobs


def test_a_lost_lease_puts_the_job_back_on_the_queue(store: Store, queue: Queue, sweeper: Sweeper) -> None:
    job, _ = store.jobs.create(train_spec())
    store.claims.claim(job.id, "w", 30)
    assert sweeper.sweep_once().requeued == []
    _age(store, "lease_until", 31)
    done = sweeper.sweep_once()
    assert done.requeued == done.sent == queue.sent == [job.id]
    assert store.jobs.get(job.id).state is JobState.QUEUED


def test_a_job_that_lost_its_last_attempt_is_not_sent(store: Store, queue: Queue, sweeper: Sweeper) -> None:
    job, _ = store.jobs.create(train_spec(retry={"max_attempts": 1}))
    store.claims.claim(job.id, "w", 30)
    _age(store, "lease_until", 31)
    assert sweeper.sweep_once().ended == [job.id]
    assert queue.sent == []
    assert store.jobs.get(job.id).state is JobState.FAILED


def test_messages_that_the_broker_lost_are_sent_again(store: Store, queue: Queue, sweeper: Sweeper) -> None:
    job, _ = store.jobs.create(train_spec())
    store.jobs.mark_sent(job.id)
    _age(store, "sent_at", 16)
    queue.waiting = 1
    assert sweeper.sweep_once().sent == [], "it waits on the queue"
    queue.waiting = 0
    assert sweeper.sweep_once().sent == [job.id]
    assert sweeper.sweep_once().sent == [], "not again for a while"


def test_nothing_is_lost_while_the_broker_is_down(store: Store, queue: Queue, sweeper: Sweeper) -> None:
    job, _ = store.jobs.create(train_spec())
    _age(store, "updated_at", 2)
    queue.down = True
    with pytest.raises(Unavailable):
        sweeper.sweep_once()
    queue.down = False
    assert sweeper.sweep_once().sent == [job.id]


def _wait_for(sent: list[str], job_id: str) -> None:
    deadline = time.monotonic() + 5
    while job_id not in sent and time.monotonic() < deadline:
        time.sleep(0.01)
    assert job_id in sent


def test_the_thread_outlives_outages_and_complains_once(
    store: Store, queue: Queue, sweeper: Sweeper, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="shared.sweeper")
    job, _ = store.jobs.create(train_spec())
    _age(store, "updated_at", 2)
    queue.down = True
    sweeper.start()
    time.sleep(0.3)
    queue.down = False
    _wait_for(queue.sent, job.id)
    time.sleep(0.1)
    sweeper.stop()
    sweeper.stop()
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "waits" in line]) == 1
    assert len([line for line in lines if "again" in line]) == 1


def test_the_thread_outlives_errors_nobody_foresaw(
    store: Store, queue: Queue, sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = store.jobs.create(train_spec())
    _age(store, "updated_at", 2)
    real, calls = store.claims.sweep, []

    def broken_once() -> object:
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError
        return real()

    monkeypatch.setattr(store.claims, "sweep", broken_once)
    sweeper.start()
    _wait_for(queue.sent, job.id)
    sweeper.stop()
