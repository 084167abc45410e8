"""Explanations, priorities, projects and drains over HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from shared.jobs import AttemptOutcome, Claim, JobError, JobState
from shared.store import Store
from tests.api_client import TestClient
from tests.builders import train_request, train_spec


def worker(store: Store, name: str = "w1", queues: tuple[str, ...] = ("default",), slots: int = 1) -> None:
    store.workers.beat(name, host="h", pid=1, slots=slots, started_at=0.0, info={}, queues=queues)


def queued(store: Store, **changes: Any) -> str:
    return store.jobs.create(train_spec(**changes))[0].id


def claimed(store: Store, name: str = "w1") -> Claim:
    found = store.claims.claim_next(name, ("default",), 60)
    assert found is not None
    return found[0]


def codes(client: TestClient, job_id: str) -> list[str]:
    return [reason["code"] for reason in client.get(f"/jobs/{job_id}/explain").json()["reasons"]]


def test_without_a_worker_of_its_queue_a_job_waits_and_the_plan_says_so(
    client: TestClient, store: Store
) -> None:
    worker(store)
    job_id = queued(store, queue="big")
    answer = client.get(f"/jobs/{job_id}/explain").json()
    assert answer["reasons"][0]["code"] == "no_worker"
    assert "MODELYARD_QUEUES=big" in answer["summary"]
    assert answer["starts_in_seconds"] is None
    plan = client.post("/jobs?dry_run=true", json=train_request(queue="big")).json()
    assert any("No live worker serves the queue big" in text for text in plan["warnings"])
    plan = client.post("/jobs?dry_run=true", json=train_request()).json()
    assert not any("No live worker" in text for text in plan["warnings"])


def test_an_explanation_counts_turns_and_guesses_from_what_jobs_took(
    client: TestClient, store: Store
) -> None:
    worker(store)
    ids = [queued(store, project="a") for _ in range(3)]
    mine = queued(store, project="b")
    assert codes(client, mine) == ["ahead"]
    claim = claimed(store)
    assert claim.job_id == ids[0]
    answer = client.get(f"/jobs/{mine}/explain").json()
    assert answer["ahead"] == 1, "of the other project's two, one has its turn"
    assert [reason["code"] for reason in answer["reasons"]] == ["ahead", "workers_busy"]
    assert answer["starts_in_seconds"] is None, "nothing has ended yet"
    store.claims.finish(claim, JobState.SUCCEEDED)
    answer = client.get(f"/jobs/{mine}/explain").json()
    assert answer["starts_in_seconds"] is not None
    assert answer["ends_in_seconds"] >= answer["starts_in_seconds"]
    assert answer["ahead_first"] == ids[1:]
    assert codes(client, ids[0]) == ["ended"]


def test_limits_pauses_drains_and_running_jobs_are_explained(client: TestClient, store: Store) -> None:
    worker(store, slots=2)
    assert client.put("/projects/a", json={"max_running": 1}).json()["max_running"] == 1
    first, second = queued(store, project="a"), queued(store, project="a")
    claim = claimed(store)
    assert claim.job_id == first
    assert codes(client, first) == ["starting"]
    assert codes(client, second) == ["project_limit"]
    client.put("/projects/a", json={"max_running": None})
    assert codes(client, second) == ["about_to_start"]
    store.workers.drain("w1", now=False)
    assert codes(client, second) == ["draining"]
    assert client.post("/workers/w1/undrain").json()["draining"] is None
    store.claims.release(claim, AttemptOutcome.FAILED, error=JobError("disk_full", "full"), counts=True)
    assert codes(client, first)[0] == "retry_pause"


def test_a_priority_can_be_changed_until_the_job_has_ended(client: TestClient, store: Store) -> None:
    first, second = queued(store), queued(store)
    assert client.put(f"/jobs/{second}/priority", json={"priority": 7}).json()["priority"] == 7
    worker(store)
    claim = claimed(store)
    assert claim.job_id == second
    assert store.jobs.events(second).items[1].type == "priority"
    store.claims.finish(claim, JobState.SUCCEEDED)
    assert client.put(f"/jobs/{second}/priority", json={"priority": 1}).status_code == 409
    for wrong in ({"priority": 101}, {"priority": "high"}, {"priority": True}, {}):
        assert client.put(f"/jobs/{first}/priority", json=wrong).status_code == 422


def test_projects_are_listed_with_what_they_have(client: TestClient, store: Store) -> None:
    queued(store, project="vision")
    client.put("/projects/speech", json={"max_running": 0})
    items = client.get("/projects").json()["items"]
    assert items == [
        {"name": "speech", "max_running": 0, "queued": 0, "running": 0},
        {"name": "vision", "max_running": None, "queued": 1, "running": 0},
    ]
    assert client.get("/projects/vision").json() == items[1]
    assert client.get("/projects/nobody").status_code == 404
    assert client.put("/projects/..%2Fx", json={"max_running": 1}).status_code in (404, 422)
    assert client.put("/projects/x", json={"max_running": -1}).status_code == 422
    assert client.put("/projects/x", json={}).status_code == 422


def test_a_drain_is_seen_and_undone(client: TestClient, store: Store) -> None:
    worker(store, queues=("default", "gpu"))
    assert client.post("/workers/w1/drain", json={"now": True}).json()["draining"] == "now"
    (view,) = client.get("/workers").json()["items"]
    assert (view["queues"], view["draining"]) == (["default", "gpu"], "now")
    assert client.post("/workers/w1/drain").json()["draining"] == "finish"
    assert client.post("/workers/w1/undrain").json()["draining"] is None
    assert client.post("/workers/nobody/drain").status_code == 404
    assert client.post("/workers/w1/drain", json={"now": "soon"}).status_code == 422


@pytest.mark.parametrize(
    ("changes", "queue"),
    [
        ({}, "default"),
        ({"devices": {"visible": ["GPU:0"]}}, "gpu"),
        ({"devices": {"visible": ["CPU:0"]}}, "cpu"),
        ({"strategy": {"kind": "mirrored", "devices": ["gpu:0", "GPU:1"]}}, "gpu"),
        ({"strategy": {"kind": "one_device", "device": "/gpu:1"}}, "gpu"),
        ({"strategy": {"kind": "mirrored"}}, "default"),
        ({"queue": "big", "devices": {"visible": ["GPU:0"]}}, "big"),
    ],
)
def test_the_queue_is_that_of_what_the_job_needs(store: Store, changes: dict[str, Any], queue: str) -> None:
    assert store.jobs.get(queued(store, **changes)).queue == queue
