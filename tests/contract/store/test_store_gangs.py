"""What every store promises about gangs: all or nothing, one order for all, nobody left behind."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

import pytest

from shared.errors import StaleClaim
from shared.jobs import AttemptOutcome, Claim, JobState
from shared.store import GangState, SeatClaim, Store
from tests.builders import train_spec
from tests.contract.store.racing import RACING

QUEUES = ("default",)


def led(store: Store, *, worker: str = "w1", seats: int = 1, lease: float = 30.0, priority: int = 0) -> Claim:
    """A running job whose leader waits for others."""
    job = store.jobs.create(train_spec())[0]
    taken = store.claims.claim(job.id, worker, lease)
    assert taken is not None
    opened(store, taken[0], seats=seats, priority=priority)
    return taken[0]


def opened(store: Store, claim: Claim, *, seats: int = 1, priority: int = 0) -> int:
    names = [f"worker-{number + 1}" for number in range(seats)]
    return store.gangs.open(claim, names, queue="default", priority=priority)


def taken(store: Store, worker: str, lease: float = 30.0) -> SeatClaim:
    seat = store.gangs.take(worker, queues=QUEUES, lease_seconds=lease)
    assert seat is not None
    return seat


def announced(store: Store, worker: str, lease: float = 30.0) -> SeatClaim:
    seat = taken(store, worker, lease)
    store.gangs.announce(seat, host=worker, port=2222, gpus=["0"], said={"files": True})
    return seat


def orders(store: Store, claim: Claim) -> dict[str, dict[str, Any]]:
    return {seat.name: {"start": 1} for seat in store.gangs.seats(claim)}


def test_a_gang_starts_when_all_have_said_where_they_are_and_not_before(store: Store) -> None:
    claim = led(store, seats=2)
    assert not store.gangs.start(claim, orders(store, claim))
    first = announced(store, "w2")
    second = taken(store, "w3")
    assert (first.name, second.name) == ("worker-1", "worker-2")
    assert not store.gangs.start(claim, orders(store, claim))
    assert store.gangs.look(first).state is GangState.ASSEMBLING
    store.gangs.announce(second, host="w3", port=2223, gpus=[], said={})
    assert store.gangs.start(claim, orders(store, claim))
    view = store.gangs.look(first)
    assert (view.state, view.orders, view.leader) == (GangState.STARTED, {"start": 1}, "w1")
    states = store.gangs.seats(claim)
    assert [(seat.host, seat.port, seat.gpus) for seat in states] == [("w2", 2222, ("0",)), ("w3", 2223, ())]
    assert not store.gangs.leave(first), "nobody leaves a gang that has started"


def test_a_worker_sits_once_in_a_gang_and_never_in_its_own(store: Store) -> None:
    led(store, seats=3)
    taken(store, "w2")
    for worker in ("w1", "w2"):
        assert store.gangs.wanted(worker, queues=QUEUES) is None
        assert store.gangs.take(worker, queues=QUEUES, lease_seconds=30) is None
    assert store.gangs.take("w3", queues=("gpu",), lease_seconds=30) is None
    taken(store, "w3")


def test_the_older_gang_is_filled_first_and_a_higher_priority_before_it(store: Store) -> None:
    old, young = led(store), led(store, worker="w2")
    assert store.gangs.wanted("w2", queues=QUEUES, before=young.job_id) == old.job_id
    assert store.gangs.wanted("w1", queues=QUEUES, before=old.job_id) is None, "the first never gives way"
    urgent = led(store, worker="w3", priority=5)
    assert [taken(store, worker).job_id for worker in ("w4", "w5", "w6")] == [
        urgent.job_id,
        old.job_id,
        young.job_id,
    ]


def test_status_says_who_is_there_and_who_is_ahead(store: Store) -> None:
    old, young = led(store, seats=2), led(store, worker="w2")
    taken(store, "w3")
    status = store.gangs.status(old.job_id)
    assert status is not None
    assert (status.here, status.size, status.ahead, status.tries) == (2, 3, None, 0)
    assert status.seats == {"worker-1": "w3", "worker-2": None}
    assert status.waited_seconds is not None
    assert 0 <= status.waited_seconds < 20
    behind = store.gangs.status(young.job_id)
    assert behind is not None
    assert behind.ahead == old.job_id
    assert store.gangs.status(store.jobs.create(train_spec())[0].id) is None
    assert store.gangs.seats_of("w3") == [old.job_id]


def test_a_seat_whose_lease_has_ended_is_open_again_and_its_holder_hears_of_it(store: Store) -> None:
    claim = led(store)
    seat = announced(store, "w2", lease=0.2)
    store.gangs.renew(seat, 0.2)
    assert store.gangs.reopen(claim) == 0
    time.sleep(0.3)
    assert not store.gangs.start(claim, orders(store, claim)), "who is not heard of is not counted on"
    assert store.gangs.reopen(claim) == 1
    for write in (
        lambda: store.gangs.look(seat),
        lambda: store.gangs.renew(seat, 30),
        lambda: store.gangs.say(seat, {}),
    ):
        with pytest.raises(StaleClaim):
            write()
    other = announced(store, "w3")
    store.gangs.renew(other, 30)
    state = store.gangs.seats(claim)[0]
    assert (state.worker_id, state.renewals) == ("w3", 1)
    assert state.lease_left is not None
    assert 0 < state.lease_left <= 30


@pytest.mark.parametrize("how", ["ended", "cancelled", "lost", "finished", "stood down"])
def test_members_are_free_when_the_gang_is_over(store: Store, how: str) -> None:
    claim = led(store, lease=0.2 if how == "lost" else 30)
    seat = announced(store, "w2")
    if how == "ended":
        store.gangs.end(claim)
        store.gangs.end(claim)
    elif how == "cancelled":
        store.jobs.request_cancel(claim.job_id)
    elif how == "lost":
        time.sleep(0.3)
        assert store.claims.sweep().requeued == [claim.job_id]
    elif how == "finished":
        store.claims.finish(claim, JobState.SUCCEEDED)
    else:
        assert store.gangs.stand_down(claim, pause_seconds=0, queued_until=None, why="nobody came")
    with pytest.raises(StaleClaim):
        store.gangs.look(seat)
    with pytest.raises(StaleClaim):
        store.gangs.say(seat, {"x": 1})
    assert store.gangs.take("w3", queues=QUEUES, lease_seconds=30) is None
    if how in ("lost", "finished"):
        assert store.gangs.sweep() == 1
        assert store.gangs.status(claim.job_id) is None
    assert store.gangs.sweep() == 0


def test_seats_of_workers_known_to_be_dead_are_lost_at_once_and_shown_until_then(store: Store) -> None:
    claim = led(store)
    announced(store, "w2")
    store.workers.beat("w2", host="h", pid=1, slots=1, started_at=0.0, info={})
    assert store.workers.find()[0].jobs == (claim.job_id,)
    assert store.gangs.expire([]) == 0
    assert store.gangs.expire(["w2", "w9"]) == 1
    left = store.gangs.seats(claim)[0].lease_left
    assert left is not None
    assert left < 0


def test_a_new_leader_takes_the_place_of_a_lost_one(store: Store) -> None:
    claim = led(store, lease=0.1)
    seat = announced(store, "w2")
    time.sleep(0.2)
    store.claims.sweep()
    again = store.claims.claim(claim.job_id, "w3", 30)
    assert again is not None
    opened(store, again[0])
    with pytest.raises(StaleClaim):
        store.gangs.look(seat)
    for late in (
        lambda: store.gangs.seats(claim),
        lambda: store.gangs.start(claim, {}),
        lambda: opened(store, claim),
        lambda: store.gangs.stand_down(claim, pause_seconds=0, queued_until=None, why=""),
        lambda: store.gangs.order(claim, "worker-1", {}),
    ):
        with pytest.raises(StaleClaim):
            late()
    store.gangs.end(claim)
    assert taken(store, "w2").gang_token == again[0].token


def test_standing_down_is_no_attempt_and_is_remembered(store: Store) -> None:
    claim = led(store)
    assert store.gangs.stand_down(claim, pause_seconds=30, queued_until=None, why="1 of 2 workers came")
    job = store.jobs.get(claim.job_id)
    assert (job.state, job.attempt, job.attempts) == (JobState.QUEUED, 0, ())
    assert job.not_before is not None
    assert store.claims.claim(job.id, "w1", 30) is None, "put off"
    status = store.gangs.status(job.id)
    assert status is not None
    assert (status.state, status.here, status.size, status.tries) == (GangState.STOOD_DOWN, 0, 2, 1)
    event = store.jobs.events(job.id).items[-1]
    assert event.data["reason"] == "1 of 2 workers came"

    other = led(store)
    assert store.gangs.stand_down(other, pause_seconds=0, queued_until=None, why="")
    again = store.claims.claim(other.job_id, "w2", 30)
    assert again is not None
    assert again[0].attempt == 1
    assert opened(store, again[0]) == 1
    announced(store, "w1")
    assert store.gangs.start(again[0], orders(store, again[0]))
    started = store.gangs.status(other.job_id)
    assert started is not None
    assert (started.state, started.tries) == (GangState.STARTED, 0)
    store.claims.release(again[0], AttemptOutcome.LOST, counts=True)
    assert [attempt.number for attempt in store.jobs.get(other.job_id).attempts] == [1]


def test_who_was_asked_to_cancel_does_not_stand_down(store: Store) -> None:
    claim = led(store)
    store.jobs.request_cancel(claim.job_id)
    assert not store.gangs.stand_down(claim, pause_seconds=0, queued_until=None, why="")
    assert store.jobs.get(claim.job_id).state is JobState.RUNNING


def test_workers_of_the_queue_are_counted_while_they_take_jobs(store: Store) -> None:
    for worker, queues in {"w1": QUEUES, "w2": ("gpu", "default"), "w3": QUEUES, "w4": ("gpu",)}.items():
        store.workers.beat(worker, host="h", pid=1, slots=1, started_at=0.0, info={}, queues=queues)
    assert store.gangs.others_alive("w1", "default") == 2
    store.workers.drain("w3", now=False)
    assert store.gangs.others_alive("w1", "default") == 1
    store.workers.leave("w2")
    assert store.gangs.others_alive("w1", "default") == 0


def test_a_worker_that_drains_takes_no_seat(store: Store) -> None:
    led(store)
    store.workers.beat("w2", host="h", pid=1, slots=1, started_at=0.0, info={})
    store.workers.drain("w2", now=False)
    assert store.gangs.take("w2", queues=QUEUES, lease_seconds=30) is None
    store.workers.undrain("w2")
    taken(store, "w2")


def _race(url: str, worker: str, gate: Any, wins: Any) -> None:
    store = Store(url)
    gate.wait()
    for _ in range(6):
        seat = store.gangs.take(worker, queues=QUEUES, lease_seconds=30)
        wins.put((worker, None if seat is None else (seat.job_id, seat.name)))
    store.close()


def test_of_many_slots_that_race_for_a_seat_one_gets_it(url: str, store: Store) -> None:
    claims = [led(store, worker=f"leader{n}", seats=2) for n in range(3)]
    workers = ["w1", "w1", "w2", "w3"]
    gate, wins = RACING.Barrier(len(workers)), RACING.Queue()
    racers = [RACING.Process(target=_race, args=(url, worker, gate, wins)) for worker in workers]
    for racer in racers:
        racer.start()
    said = [wins.get(timeout=60) for _ in range(6 * len(workers))]
    for racer in racers:
        racer.join(30)
        assert racer.exitcode == 0
    got = [(worker, seat) for worker, seat in said if seat is not None]
    assert len(got) == 6, "every seat was taken"
    assert max(Counter(seat for _, seat in got).values()) == 1
    assert max(Counter((worker, seat[0]) for worker, seat in got).values()) == 1, "one seat each"
    assert all(seat.worker_id for claim in claims for seat in store.gangs.seats(claim))
