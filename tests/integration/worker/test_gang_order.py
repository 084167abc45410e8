"""Who gets which slot when several gangs want the same: many rounds, by workers whose programs are small scripts."""

from __future__ import annotations

import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from services.worker import cluster, gang_seat
from services.worker.gang_seat import Seats
from services.worker.lifecycle import Attempts
from services.worker.preloader import Trainer
from services.worker.protocol import TrainingRequest
from services.worker.slots import Slots
from services.worker.study_sessions import StudySessions
from services.worker.trial import Trials
from shared.jobs import Job, JobState
from shared.settings import Settings
from shared.specs import parse_job
from shared.store import GangState, SeatClaim, Store, migrate
from shared.sweeper import Sweeper
from shared.tuning.engines import Engines

SCRIPT = """
import json, os, signal, sys, time
events, seconds, chief = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3] == "chief"
def say(**event): os.write(events, json.dumps(event).encode() + b"\\n")
def stop(*_): say(event="stopped"); os._exit(75)
if chief: signal.signal(signal.SIGTERM, stop)
end = time.monotonic() + seconds
while not chief or time.monotonic() < end: say(event="alive"); time.sleep(0.05)
say(event="finished", metrics={}, epochs=1, steps=1)
"""


class Scripts:
    """In the place of a preloader. A job's name says for how many seconds it runs."""

    def __init__(self) -> None:
        self.started: list[str] = []

    def start(self, request: TrainingRequest, log_file: Path) -> Trainer:
        task = request.cluster
        chief = "chief" if task is None or task.is_chief else "member"
        self.started.append(f"{request.job_id} {chief}")
        lifeline_out, lifeline_in = os.pipe()
        events_out, events_in = os.pipe()
        with log_file.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-S", "-c", SCRIPT, str(events_in), request.spec["name"], chief],
                stdin=lifeline_out, stdout=log, stderr=log, pass_fds=[events_in], start_new_session=True,
            )  # fmt: skip
        os.close(lifeline_out)
        os.close(events_in)
        return Trainer(process, lifeline_in, events_out, warm=False)


class Messages:
    """The broker's part: ids, read by whoever is free."""

    def __init__(self) -> None:
        self._ids: queue.Queue[str] = queue.Queue()

    def send(self, job_id: str, queue: str = "default") -> None:
        self._ids.put(job_id)

    def depth(self, *queues: str) -> int:
        return self._ids.qsize()

    def take(self) -> str | None:
        try:
            return self._ids.get(timeout=0.05)
        except queue.Empty:
            return None


class Yard:
    """Workers with one slot each, on one store."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        settings = {"lease_seconds": 5, "heartbeat_seconds": 0.3, **settings}
        self.settings = Settings(home=folder / "home", **settings)
        self.settings.paths.create()
        migrate(self.settings.store_url)
        self.store = Store(self.settings.store_url)
        self.messages = Messages()
        self.engines, self.pruner = Engines(self.store), ThreadPoolExecutor(1)
        self.workers: list[SimpleNamespace] = []
        self.over = threading.Event()
        self.sweeper = Sweeper(self.store, self.messages, every_seconds=0.2)  # type: ignore[arg-type]
        self.sweeper.start()
        self.heart = threading.Thread(target=self._beat)
        self.heart.start()

    def worker(
        self, settings: Settings | None = None, gpus: Callable[[], Sequence[str]] = tuple
    ) -> SimpleNamespace:
        name = f"w{len(self.workers)}"
        stopping, scripts = threading.Event(), Scripts()
        shared: dict[str, Any] = {
            "settings": settings or self.settings,
            "worker_id": name,
            "store": self.store,
            "preloader": scripts,
            "queue": self.messages,
            "stopping": stopping,
            "queues": ("default",),
        }
        attempts = Attempts(
            publisher=None,  # type: ignore[arg-type]
            studies=None,  # type: ignore[arg-type]
            trials=Trials(self.store, self.engines, self.pruner, StudySessions(self.settings.paths)),
            **shared,
        )
        slots = Slots(attempts, self.messages, Seats(gpus=gpus, **shared))  # type: ignore[arg-type]
        one = SimpleNamespace(name=name, stopping=stopping, slots=slots)
        one.thread = threading.Thread(target=self._slot, args=(one,))
        self.beat(name)
        self.workers.append(one)
        one.thread.start()
        return one

    def beat(self, name: str) -> None:
        self.store.workers.beat(name, host="h", pid=1, slots=1, started_at=0.0, info={})

    def submit(self, workers: int, seconds: float, placement: str = "spread", **more: Any) -> str:
        strategy = {"kind": "multi_worker_mirrored", "workers": workers, "placement": placement}
        request = {
            "model": {"builder": "mlp"},
            "dataset": {"tfds": "mnist"},
            "name": str(seconds),
            **({"strategy": strategy} if workers > 1 else {}),
            **more,
        }
        job, _ = self.store.jobs.create(parse_job(request))
        self.messages.send(job.id)
        self.store.jobs.mark_sent(job.id)
        return job.id

    def job(self, job_id: str) -> Job:
        return self.store.jobs.get(job_id)

    def until(self, condition: Callable[[], Any], seconds: float = 30) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, [
                (job.id, job.state, job.stage, self.store.gangs.status(job.id))
                for job in self.store.jobs.find().items
            ]
            time.sleep(0.02)

    def succeeded(self, *job_ids: str, seconds: float = 60) -> None:
        self.until(lambda: all(self.job(job_id).state.terminal for job_id in job_ids), seconds)
        for job_id in job_ids:
            assert self.job(job_id).state is JobState.SUCCEEDED, self.job(job_id).error

    def close(self) -> None:
        self.over.set()
        self.pruner.shutdown()
        self.sweeper.stop()
        for one in self.workers:
            one.stopping.set()
        for thread in [self.heart, *(one.thread for one in self.workers)]:
            thread.join(20)
            assert not thread.is_alive()
        self.store.close()

    def _slot(self, one: SimpleNamespace) -> None:
        while not one.stopping.is_set():
            job_id = self.messages.take()
            if job_id is not None:
                one.slots.wake(job_id)

    def _beat(self) -> None:
        while not self.over.wait(1):
            for one in list(self.workers):
                if not one.stopping.is_set():
                    self.beat(one.name)


@pytest.fixture
def yard(tmp_path: Path) -> Iterator[Yard]:
    # nobody is rescued by giving up: that would take longer than any test waits
    one = Yard(tmp_path, gang_wait_seconds=600)
    yield one
    one.close()


def test_two_gangs_that_start_at_once_never_wait_for_each_other(yard: Yard) -> None:
    yard.worker()
    yard.worker()
    for _ in range(6):
        pair = [yard.submit(2, 0.05) for _ in range(2)]
        single = yard.submit(1, 0.05)
        yard.succeeded(*pair, single)
        for job_id in pair:
            job = yard.job(job_id)
            assert (job.attempt, len(job.attempts)) == (1, 1), "giving way is no attempt"
            assert len({member["worker"] for member in job.run["cluster"]["members"]}) == 2


def test_gangs_of_three_among_singles_on_four_workers(yard: Yard) -> None:
    for _ in range(4):
        yard.worker()
    gangs = [yard.submit(3, 0.1) for _ in range(5)]
    singles = [yard.submit(1, 0.05) for _ in range(10)]
    yard.succeeded(*gangs, *singles, seconds=120)


def test_a_gang_gets_its_slots_although_singles_keep_coming(yard: Yard) -> None:
    yard.worker()
    yard.worker()
    singles = [yard.submit(1, 0.4) for _ in range(4)]
    gang = yard.submit(2, 0.1)
    later = [yard.submit(1, 0.4) for _ in range(6)]
    yard.succeeded(gang, *singles, *later)
    started = yard.job(gang).attempts[0].started_at
    behind = [job_id for job_id in later if yard.job(job_id).attempts[0].started_at > started]
    # one may slip in between the gang's claim and its call for a second worker
    assert len(behind) >= 5, "the slots that became free went to the gang first"


def waiting(yard: Yard, **more: Any) -> tuple[str, str]:
    """A gang that has one of two workers, and the single job that keeps the other busy."""
    yard.worker()
    busy = yard.submit(1, 60)
    yard.until(lambda: yard.job(busy).stage == "starting")
    yard.worker()
    gang = yard.submit(2, 0.1, **more)
    yard.until(lambda: yard.job(gang).stage == "waiting_for_workers")
    return gang, busy


def test_who_waits_says_so_and_can_be_cancelled(yard: Yard) -> None:
    gang, busy = waiting(yard)
    job = yard.job(gang)
    assert job.run["cluster"]["waiting"] == {"workers": 1, "of": 2, "text": "1 of 2"}
    status = yard.store.gangs.status(gang)
    assert status is not None
    assert (status.state, status.here, status.size) == (GangState.ASSEMBLING, 1, 2)
    yard.store.jobs.request_cancel(gang)
    yard.until(lambda: yard.job(gang).state is JobState.CANCELLED, 10)
    assert yard.store.gangs.status(gang) is None
    yard.succeeded(yard.submit(1, 0.05), seconds=10)
    yard.store.jobs.request_cancel(busy)


def test_a_worker_that_stops_does_not_wait_and_the_job_has_lost_nothing(yard: Yard) -> None:
    gang, busy = waiting(yard)
    leader = next(one for one in yard.workers if one.name == yard.job(gang).worker_id)
    leader.stopping.set()
    leader.thread.join(10)
    assert not leader.thread.is_alive()
    job = yard.job(gang)
    assert (job.state, job.attempt) == (JobState.QUEUED, 0)
    yard.store.jobs.request_cancel(busy)
    yard.worker()
    yard.succeeded(gang)


def test_the_time_to_be_taken_up_goes_on_while_a_leader_waits(yard: Yard) -> None:
    gang, busy = waiting(yard, deadline={"queue_seconds": 1})
    yard.until(lambda: yard.job(gang).state.terminal, 10)
    error = yard.job(gang).error
    assert error is not None
    assert error["code"] == "deadline"
    yard.store.jobs.request_cancel(busy)


def test_slots_are_given_back_when_nobody_comes_and_auto_makes_do_with_one(tmp_path: Path) -> None:
    yard = Yard(tmp_path, gang_wait_seconds=1)
    try:
        gang, busy = waiting(yard)
        yard.until(lambda: yard.job(gang).state is JobState.QUEUED, 10)
        status = yard.store.gangs.status(gang)
        assert status is not None
        assert (status.state, status.tries) == (GangState.STOOD_DOWN, 1)
        assert yard.job(gang).not_before is not None
        auto = yard.submit(2, 0.1, placement="auto")
        yard.succeeded(auto, seconds=10)
        cluster = yard.job(auto).run["cluster"]
        assert "worker" not in cluster["members"][0]
        assert cluster["waiting"] is None
        yard.store.jobs.request_cancel(busy)
        assert yard.store.gangs.recall() == 1
        yard.succeeded(gang, seconds=10)
    finally:
        yard.close()


def test_fewer_workers_than_needed_do_not_wait_at_all(yard: Yard) -> None:
    yard.worker()
    gang = yard.submit(2, 0.1)
    yard.until(lambda: yard.job(gang).not_before is not None, 10)
    event = yard.store.jobs.events(gang).items[-1]
    assert event.data["reason"] == "1 of 2 workers are alive"
    yard.succeeded(yard.submit(1, 0.05), seconds=10)


def test_a_member_that_stops_gives_the_job_back_with_a_checkpoint(yard: Yard) -> None:
    yard.worker()
    yard.worker()
    gang = yard.submit(2, 60)
    yard.until(
        lambda: all(member["pid"] for member in yard.job(gang).run.get("cluster", {}).get("members", ()))
    )
    yard.until(lambda: len(yard.job(gang).run.get("cluster", {}).get("members", ())) == 2)
    names = [member["worker"] for member in yard.job(gang).run["cluster"]["members"]]
    member = next(one for one in yard.workers if one.name == names[1])
    member.stopping.set()
    yard.until(lambda: bool(yard.job(gang).attempts) and yard.job(gang).attempts[0].outcome == "released", 10)
    member.thread.join(10)
    assert not member.thread.is_alive()
    yard.store.jobs.request_cancel(gang)


def test_a_worker_that_does_not_see_the_runs_is_named(
    yard: Yard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gang_seat, "FILES_SECONDS", 0.3)
    yard.worker()
    blind = yard.settings.model_copy(update={"home": tmp_path / "elsewhere"})
    gang = yard.submit(2, 0.1, retry={"max_attempts": 1})
    yard.until(lambda: yard.job(gang).not_before is not None, 10)  # led by w0
    yard.worker(blind)
    yard.store.gangs.recall()
    yard.until(lambda: yard.job(gang).state.terminal, 20)
    error = yard.job(gang).error
    assert error is not None
    if yard.job(gang).attempts[0].worker_id == "w0":
        assert "w1, which was to run worker-1" in error["message"]
    assert error["code"] == "files_not_shared"
    assert "MODELYARD_HOME" in error["hint"]


def test_a_member_whose_worker_freezes_ends_the_attempt(yard: Yard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "GONE_SECONDS", 0.5)
    yard.worker()
    yard.beat("frozen")
    gang = yard.submit(2, 60, retry={"max_attempts": 1})
    seats: list[SeatClaim] = []

    def sits() -> bool:
        seat = yard.store.gangs.take("frozen", queues=("default",), lease_seconds=2.5)
        seats.extend([seat] if seat is not None else [])
        return bool(seats)

    yard.until(sits)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        yard.store.gangs.announce(seats[0], host="127.0.0.1", port=port, gpus=[], said={})
        yard.until(lambda: yard.store.gangs.look(seats[0]).orders.get("start") == 1)
        yard.store.gangs.say(seats[0], {"start": 1, "pid": 4_000_000, "alive": True})
        yard.until(lambda: yard.job(gang).state.terminal, 20)  # nobody renews the seat
    error = yard.job(gang).error
    assert error is not None
    assert error["code"] == "worker_lost"
    assert "frozen (worker-1)" in error["message"]


def test_a_member_that_takes_its_time_is_waited_for(tmp_path: Path) -> None:
    # long enough that a busy machine renews it in time, and shorter than what it takes
    yard = Yard(tmp_path, lease_seconds=4, gang_wait_seconds=0.5)

    def slow() -> Sequence[str]:
        time.sleep(5)
        return ()

    try:
        yard.worker(gpus=slow)
        yard.worker(gpus=slow)
        gang = yard.submit(2, 0.1)
        yard.succeeded(gang)
        assert yard.job(gang).attempt == 1
        reasons = [event.data.get("reason") for event in yard.store.jobs.events(gang).items]
        assert set(reasons) <= {None, "1 of 2 workers are alive"}, "its seat stayed its own"
    finally:
        yard.close()


def test_workers_that_can_not_reach_each_other_are_named(yard: Yard) -> None:
    yard.worker()
    yard.worker(
        yard.settings.model_copy(update={"advertise_host": "192.0.2.1"})
    )  # for documentation, nowhere
    gang = yard.submit(2, 0.1, retry={"max_attempts": 1})
    yard.until(lambda: yard.job(gang).state.terminal, 20)
    error = yard.job(gang).error
    assert error is not None
    assert error["code"] == "worker_unreachable"
    assert "MODELYARD_ADVERTISE_HOST" in error["hint"]
