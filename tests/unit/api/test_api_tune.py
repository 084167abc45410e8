"""Tune jobs over HTTP: the plan, errors by parameter, and how studies go on."""

from __future__ import annotations

from typing import Any

import pytest

from shared.jobs import JobState
from shared.specs import TuneJob, parse_job
from shared.store import NewTrial, Store
from shared.trials import Told, TrialSource, TrialStatus
from tests.api_client import TestClient
from tests.builders import train_request


def request(**changes: Any) -> dict[str, Any]:
    space = {"units": {"choice": ["8", "16"]}, "dropout": {"uniform": [0.0, 0.1]}}
    return {"kind": "tune", "base": train_request(), "space": space, "sampler": "grid", **changes}


def ended(
    store: Store,
    study_id: str,
    tried: list[dict[str, Any]] | None = None,
    *,
    complete: int = 0,
    state: JobState,
    last: TrialStatus = TrialStatus.COMPLETE,
) -> None:
    """Have the first trials, or those that are given, complete, the last one end as it is said, and end the study."""
    turn = store.studies.take_turn(study_id, 30)
    assert turn is not None
    store.studies.begin(turn, f"studies/{study_id}")
    spec = parse_job(store.jobs.get(study_id).spec)
    assert isinstance(spec, TuneJob)
    points = spec.points[:complete] if tried is None else tried
    store.studies.record(
        turn,
        wanted=[
            NewTrial(i, TrialSource.SAMPLER, point, {}, spec.assigned(point), {}, f"x/{i}")
            for i, point in enumerate(points)
        ],
    )
    told = [Told(i, TrialStatus.COMPLETE, [float(i)]) for i in range(len(points))]
    if last is not TrialStatus.COMPLETE:
        told[-1] = Told(len(told) - 1, last)
    store.studies.record(turn, told=told, best=0)
    store.studies.finish(turn, state)


def test_a_plan_says_how_many_trials_there_will_be(client: TestClient) -> None:
    answer = client.post("/jobs?dry_run=true", json=request(max_trials=3))
    assert answer.status_code == 200, answer.text
    plan = answer.json()
    assert plan["trials"]["count"] == 3
    assert plan["trials"]["parameters"] == ["units", "dropout"]
    assert plan["trials"]["examples"][0] == {"units": "8", "dropout": 0.0}
    assert any("4 combinations, of which 3" in words for words in plan["warnings"])


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"space": {"units": {"choice": ["x"]}}}, "space.units"),
        ({"space": {"fit.optimizer": {"choice": ["adam", "rmsprob"]}}}, "space.fit.optimizer"),
        ({"space": {"dataset.npz": {"choice": ["/nowhere.npz"]}}, "base": train_request(dataset={"npz": "ds_x"})},
         "space.dataset.npz"),
        ({"base": train_request(dataset={"npz": "/nowhere.npz"})}, "base.dataset.npz"),
        ({"base": train_request(fit={"epochs": 0})}, "base.fit.epochs"),
        ({"continue_from": "job_0000000000000000000000"}, "continue_from"),
        ({"sampler": "magic"}, "sampler"),
    ],
)  # fmt: skip
def test_what_could_not_work_is_refused_with_its_field(
    client: TestClient, changes: dict[str, Any], field: str
) -> None:
    answer = client.post("/jobs", json=request(**changes))
    assert answer.status_code == 422, answer.text
    assert answer.json()["field"] == field


def test_an_ended_study_is_continued_with_what_is_left_of_its_grid(client: TestClient, store: Store) -> None:
    study_id = client.post("/jobs", json=request()).json()["id"]
    assert client.post(f"/jobs/{study_id}/continue").status_code == 409, "it has not ended"
    ended(store, study_id, complete=3, state=JobState.SUCCEEDED)
    view = client.get(f"/jobs/{study_id}").json()
    assert view["links"]["continue"] == f"/jobs/{study_id}/continue"
    headers = {"Idempotency-Key": "again"}
    answers = [
        client.post(f"/jobs/{study_id}/continue", json={"max_trials": 7}, headers=headers) for _ in range(2)
    ]
    assert [answer.status_code for answer in answers] == [202, 202]
    assert answers[0].json()["id"] == answers[1].json()["id"]
    spec = answers[0].json()["spec"]
    assert (spec["continue_from"], spec["max_trials"]) == (study_id, 7)
    plan = client.post("/jobs?dry_run=true", json={**request(), "continue_from": study_id}).json()
    assert (plan["trials"]["inherited"], plan["trials"]["count"]) == (3, 1)
    assert plan["trials"]["examples"] == [{"units": "16", "dropout": 0.1}]
    study = client.get(f"/jobs/{answers[0].json()['id']}/study").json()
    assert study["trials"] == 4, "before its first step nobody has looked"


def test_a_grid_that_has_been_tried_is_not_continued(client: TestClient, store: Store) -> None:
    first = client.post("/jobs", json=request()).json()["id"]
    ended(store, first, complete=4, state=JobState.SUCCEEDED)
    answer = client.post(f"/jobs/{first}/continue")
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_left_to_try")
    answer = client.post("/jobs", json=request(continue_from=first))
    assert answer.status_code == 422
    assert (answer.json()["code"], answer.json()["field"]) == ("nothing_left_to_try", "continue_from")
    for more in ({"sampler": "random"}, {"enqueue": [{"units": "8", "dropout": 0}]}):
        assert client.post("/jobs", json=request(continue_from=first, **more)).status_code == 202
    second = client.post("/jobs", json=request()).json()["id"]
    ended(store, second, complete=4, state=JobState.FAILED)
    assert client.post(f"/jobs/{second}/retry").status_code == 202, "it comes to its end with what it has"


def test_a_study_with_other_parameters_can_not_be_continued(client: TestClient, store: Store) -> None:
    study_id = client.post("/jobs", json=request()).json()["id"]
    ended(store, study_id, complete=1, state=JobState.FAILED)
    other = request(space={"units": {"choice": ["8"]}}, continue_from=study_id)
    assert client.post("/jobs", json=other).json()["field"] == "space"
    other = request(objective="val_accuracy", continue_from=study_id)
    assert client.post("/jobs", json=other).json()["field"] == "objective"


def test_a_retry_of_a_study_begins_with_the_trials_that_it_had(client: TestClient, store: Store) -> None:
    study_id = client.post("/jobs", json=request(sampler="random", max_trials=5)).json()["id"]
    ended(store, study_id, complete=0, state=JobState.FAILED)
    again = client.post(f"/jobs/{study_id}/retry").json()
    assert (again["spec"]["continue_from"], again["spec"]["max_trials"]) == (study_id, 5)
    anew = client.post(f"/jobs/{study_id}/retry", json={"from": "scratch"}).json()
    assert anew["spec"]["continue_from"] is None


def test_a_retry_tries_first_what_was_not_tried_to_its_end(client: TestClient, store: Store) -> None:
    first = [{"units": "8", "dropout": value} for value in (0.0, 0.05, 0.1)]
    study_id = client.post("/jobs", json=request(sampler="random", enqueue=first)).json()["id"]
    ended(store, study_id, first[:2], state=JobState.CANCELLED, last=TrialStatus.CANCELLED)
    again = client.post(f"/jobs/{study_id}/retry").json()
    assert again["spec"]["enqueue"] == first[1:]


def test_only_studies_can_be_continued(client: TestClient) -> None:
    job_id = client.post("/jobs", json=train_request()).json()["id"]
    answer = client.post(f"/jobs/{job_id}/continue")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_not_continuable")


def test_trials_are_listed_below_their_study_only(client: TestClient, store: Store) -> None:
    study_id = client.post("/jobs", json=request()).json()["id"]
    ended(store, study_id, complete=2, state=JobState.SUCCEEDED)
    assert [item["id"] for item in client.get("/jobs").json()["items"]] == [study_id]
    found = client.get("/jobs", params={"parent": study_id}).json()["items"]
    assert [item["parent"] for item in found] == [study_id] * 2
