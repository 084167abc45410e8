"""What every store promises about the order of claims: priority, fair shares, limits, and no cost of history."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy import text

from shared.jobs import AttemptOutcome, Claim, JobError, JobState
from shared.store import Store
from shared.store import order as claim_order
from shared.store.schema import jobs
from tests.builders import train_spec

DEFAULT = ("default",)


def queued(store: Store, **changes: object) -> str:
    return store.jobs.create(train_spec(**changes))[0].id


def taken(store: Store, queues: tuple[str, ...] = DEFAULT, worker: str = "w") -> Claim | None:
    found = store.claims.claim_next(worker, queues, 30)
    return found[0] if found else None


def order(store: Store, count: int) -> list[str]:
    """Ids in the order in which one slot runs them, one after another."""
    ids = []
    for _ in range(count):
        claim = taken(store)
        assert claim is not None
        ids.append(claim.job_id)
        store.claims.finish(claim, JobState.SUCCEEDED)
    return ids


def test_the_highest_priority_comes_first_and_then_the_oldest(store: Store) -> None:
    low, first, second, high = (
        queued(store, priority=-5),
        queued(store),
        queued(store),
        queued(store, priority=10),
    )
    assert order(store, 4) == [high, first, second, low]
    assert taken(store) is None


def test_one_slot_alternates_between_projects_however_long_one_of_their_queues_is(store: Store) -> None:
    long = [queued(store, project="long") for _ in range(6)]
    short = queued(store, project="short")
    assert order(store, 3) == [long[0], short, long[1]]


def test_of_several_slots_a_free_one_goes_to_the_project_with_the_fewest(store: Store) -> None:
    for _ in range(4):
        queued(store, project="a")
    for _ in range(2):
        queued(store, project="b")
    claims = [taken(store) for _ in range(4)]
    projects = [store.jobs.get(claim.job_id).project for claim in claims if claim]
    assert projects == ["a", "b", "a", "b"]
    assert claims[1] is not None
    store.claims.finish(claims[1], JobState.SUCCEEDED)
    queued(store, project="b")
    claim = taken(store)
    assert claim is not None
    assert store.jobs.get(claim.job_id).project == "b"


def test_a_project_at_its_limit_waits_and_others_pass_it(store: Store) -> None:
    store.projects.set_limit("a", 1)
    urgent = [queued(store, project="a", priority=9) for _ in range(2)]
    other = queued(store, project="b")
    claims = [taken(store), taken(store)]
    assert [claim.job_id for claim in claims if claim] == [urgent[0], other]
    assert taken(store) is None
    assert claims[0] is not None
    store.claims.finish(claims[0], JobState.SUCCEEDED)
    third = taken(store)
    assert third is not None
    assert third.job_id == urgent[1]
    store.projects.set_limit("a", 0)
    queued(store, project="a")
    assert taken(store) is None
    store.projects.set_limit("a", None)
    assert taken(store) is not None
    project = store.projects.get("a")
    assert (project.max_running, project.queued, project.running) == (None, 0, 2)


def test_a_limit_holds_when_many_claim_at_once(store: Store) -> None:
    store.projects.set_limit("a", 3)
    for _ in range(12):
        queued(store, project="a")
    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(lambda n: taken(store, worker=f"w{n}"), range(12)))
    won = [claim.job_id for claim in claims if claim]
    assert len(won) == len(set(won)) <= 3
    while taken(store) is not None:
        won.append("")
    assert len(won) == 3


def test_many_claimers_share_what_there_is_and_nobody_takes_a_job_twice(store: Store) -> None:
    ids = [queued(store, project=f"p{n % 3}") for n in range(18)]
    with ThreadPoolExecutor(6) as pool:
        claims = list(pool.map(lambda n: taken(store, worker=f"w{n}"), range(18)))
    won = [claim.job_id for claim in claims if claim]
    while claim := taken(store):  # who lost every race gave up: somebody is woken for what is left
        won.append(claim.job_id)
    assert Counter(won) == Counter(ids)


def test_a_worker_takes_from_its_queues_only_the_best_of_all(store: Store) -> None:
    gpu = queued(store, devices={"visible": ["GPU:0"]})
    cpu = queued(store, devices={"visible": ["CPU:0"]})
    big = queued(store, queue="big", priority=1)
    assert [store.jobs.get(job_id).queue for job_id in (gpu, cpu, big)] == ["gpu", "cpu", "big"]
    assert store.claims.waiting_queues() == ["big", "cpu", "gpu"]
    assert taken(store) is None
    claims = [taken(store, ("default", "cpu", "big")) for _ in range(2)]
    assert [claim.job_id for claim in claims if claim] == [big, cpu]
    claim = taken(store, ("default", "gpu"))
    assert claim is not None
    assert claim.job_id == gpu


def test_a_job_put_off_is_passed_over_until_it_is_woken(store: Store) -> None:
    first = queued(store)
    claim = taken(store)
    assert claim is not None
    error = JobError("disk_full", "No room.")
    store.claims.release(claim, AttemptOutcome.FAILED, error=error, counts=True)
    assert store.jobs.get(first).not_before is not None
    second = queued(store)
    claim = taken(store)
    assert claim is not None
    assert claim.job_id == second
    assert store.claims.wake_put_off() == []
    with store._db.write() as tx:
        tx.exec_driver_sql("UPDATE jobs SET not_before = 1 WHERE not_before IS NOT NULL")
    assert taken(store) is None
    assert store.claims.wake_put_off() == [first]
    claim = taken(store)
    assert claim is not None
    assert claim.job_id == first


def test_a_draining_worker_takes_nothing(store: Store) -> None:
    queued(store)
    store.workers.beat("w", host="h", pid=1, slots=1, started_at=0.0, info={}, queues=DEFAULT)
    store.workers.drain("w", now=False)
    assert taken(store) is None
    store.workers.beat("w", host="h", pid=1, slots=1, started_at=0.0, info={}, queues=DEFAULT)
    assert store.workers.find()[0].draining == "finish"
    store.workers.undrain("w")
    assert taken(store) is not None


@pytest.mark.parametrize("projects", [1, 200])
def test_a_claim_reads_as_much_of_a_long_queue_as_of_a_short_one(store: Store, projects: int) -> None:
    """By the plan, not by the clock: everything is looked up in the index, nothing is scanned or sorted."""
    spec = train_spec()
    job = store.jobs.create(spec)[0]
    with store._db.write() as tx:
        columns = [column.name for column in jobs.columns]
        listed = ", ".join(f'"{name}"' for name in columns if name not in ("id", "project"))
        numbers = (
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3000) SELECT"
            if store._db.is_sqlite
            else "SELECT"
        )
        source = "n, jobs" if store._db.is_sqlite else "generate_series(1, 3000) AS n(i), jobs"
        tx.execute(
            text(
                f"INSERT INTO jobs (id, project, {listed}) {numbers} "
                f"'job_x' || CAST(i AS TEXT), 'p' || CAST(i % {projects} AS TEXT), {listed} FROM {source} "
                "WHERE jobs.id = :id"
            ),
            {"id": job.id},
        )
        if not store._db.is_sqlite:
            tx.execute(text("ANALYZE jobs"))
        explain = "EXPLAIN QUERY PLAN " if store._db.is_sqlite else "EXPLAIN "
        statement = text(explain + str(claim_order._HEADS.text))
        plan = tx.execute(statement, {"queue": "default", "priority": 0, "now": 0.0}).all()
    words = "\n".join(str(row[-1]) for row in plan)
    assert "ix_jobs_claimable" in words
    assert "Seq Scan on jobs" not in words
    assert "SCAN jobs" not in words
    assert "TEMP B-TREE" not in words
    assert taken(store) is not None
