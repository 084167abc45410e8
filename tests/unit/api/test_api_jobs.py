"""Submitting, listing, reading, cancelling and retrying jobs over HTTP."""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from typing import Any

import pytest
from fastapi.testclient import TestClient

from shared import checkpoint_files
from shared.jobs import JobError, JobState
from shared.settings import Settings
from shared.store import Report, Store
from shared.views import CheckpointList, EventList, JobList, JobView, MetricsView, PlanView, Problem
from tests.builders import train_request, train_spec


def test_a_job_is_accepted_while_the_broker_is_down(client: TestClient) -> None:
    answer = client.post("/jobs", json=train_request(labels={"team": "a"}))
    assert answer.status_code == 202
    job = JobView.model_validate_json(answer.content)
    assert answer.headers["location"] == f"/jobs/{job.id}" == job.links["self"]
    assert job.state is JobState.QUEUED
    assert job.created_at.tzinfo == UTC
    assert job.created_at <= datetime.now(UTC)
    assert job.spec["fit"]["batch_size"] == 128, "defaults are filled in"
    assert JobView.model_validate_json(client.get(f"/jobs/{job.id}").content) == job


def test_the_content_type_of_a_body_does_not_matter(client: TestClient) -> None:
    for content_type in ("application/json", "application/x-www-form-urlencoded", "text/plain", ""):
        answer = client.post(
            "/jobs", content=json.dumps(train_request()), headers={"Content-Type": content_type}
        )
        assert answer.status_code == 202, content_type


def test_the_same_key_and_body_make_one_job(client: TestClient) -> None:
    key = {"Idempotency-Key": "k-1"}
    first = client.post("/jobs", json=train_request(), headers=key)
    # another order of keys and other white space is the same body
    again = client.post(
        "/jobs", content=json.dumps(dict(reversed(train_request().items())), indent=3), headers=key
    )
    assert first.status_code == again.status_code == 202
    assert first.json()["id"] == again.json()["id"]
    assert len(client.get("/jobs").json()["items"]) == 1
    other = client.post("/jobs", json=train_request(name="other"), headers=key)
    assert other.status_code == 409
    assert other.json()["code"] == "idempotency_conflict"
    assert first.json()["id"] in other.json()["detail"]


def test_a_repeated_request_is_answered_although_its_dataset_is_gone(
    client: TestClient, store: Store
) -> None:
    dataset = store.datasets.add(
        name="d", kind="npz", size_bytes=1, sha256="0" * 64, path="d/data.npz",
        info={"arrays": [{"name": "x_train", "shape": [200, 2], "dtype": "float32"},
                         {"name": "y_train", "shape": [200], "dtype": "int64"}]},
    )  # fmt: skip
    body = train_request(dataset={"npz": dataset.id})
    first = client.post("/jobs", json=body, headers={"Idempotency-Key": "k"})
    assert first.status_code == 202
    client.post(f"/jobs/{first.json()['id']}/cancel")
    store.datasets.delete(dataset.id)
    again = client.post("/jobs", json=body, headers={"Idempotency-Key": "k"})
    assert again.status_code == 202
    assert again.json()["id"] == first.json()["id"]


def test_a_dry_run_shows_the_plan_and_stores_nothing(client: TestClient) -> None:
    answer = client.post("/jobs?dry_run=true", json=train_request(publish={"model": "m"}))
    assert answer.status_code == 200
    plan = PlanView.model_validate_json(answer.content)
    assert (plan.epochs, plan.batch_size, plan.next_version) == (1, 128, 1)
    assert client.get("/jobs").json()["items"] == []
    quiet = PlanView.model_validate_json(client.post("/jobs?dry_run=1", json=train_request()).content)
    assert quiet.next_version is None
    assert any("publish" in warning for warning in quiet.warnings)


def test_lists_are_filtered_and_paged(client: TestClient) -> None:
    made = [
        client.post(
            "/jobs", json=train_request(labels={"n": str(n % 2)}, publish={"model": f"m{n % 3}"})
        ).json()["id"]
        for n in range(7)
    ]
    assert [item["id"] for item in client.get("/jobs").json()["items"]] == made[::-1]
    seen: list[str] = []
    after: dict[str, str] = {}
    while True:
        page = JobList.model_validate_json(client.get("/jobs", params={"limit": "3", **after}).content)
        assert all(item.attempts is None for item in page.items)
        seen += [item.id for item in page.items]
        if not page.has_more:
            break
        after = {"after": seen[-1]}
    assert seen == made[::-1]

    def ids(**params: str) -> list[str]:
        return [item["id"] for item in client.get("/jobs", params=params).json()["items"]]

    client.post(f"/jobs/{made[0]}/cancel")
    assert ids(state="cancelled") == [made[0]]
    assert ids(model="m1") == [made[4], made[1]]
    assert ids(label="n=1") == [made[5], made[3], made[1]]
    assert len(ids(label="n")) == 7
    assert ids(kind="train", state="queued", label="n=0", model="m0") == [made[6]]
    assert ids(kind="tune") == []


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"), ("limit=201", "limit"), ("limit=x", "limit"), ("state=done", "state"),
        ("after=%00", "after"), ("model=%00", "model"), ("label=%00", "label"), ("label=a=%00", "label"),
        ("kind=%F0%9F%A6%86", "kind"), ("model=../x", "model"),
    ],
)  # fmt: skip
def test_wrong_filters_are_refused_with_the_parameter(client: TestClient, query: str, field: str) -> None:
    answer = client.get(f"/jobs?{query}")
    assert answer.status_code == 422
    assert Problem.model_validate_json(answer.content).field == field


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"epochs": 3}, "epochs"),
        ({"fit": {"epochs": "many"}}, "fit.epochs"),
        ({"fit": {"epochs": 0}}, "fit.epochs"),
        ({"fit": {"optimizer": "adamm"}}, "fit.optimizer"),
        ({"fit": {"callbacks": ["EarlyStopping", "Nope"]}}, "fit.callbacks.1"),
        ({"model": {"builder": "mlp", "params": {"unit": 3}}}, "model.params.unit"),
        ({"model": {"builder": "mlp", "params": {"units": [3, 0]}}}, "model.params.units.1"),
        ({"model": {"builder": "mlp", "size": 3}}, "model.size"),
        ({"model": {}}, "model"),
        ({"model": {"builder": "mlp", "keras_config": {}}}, "model"),
        ({"model": {"keras_config": {"class_name": "Lambda", "config": {}}}}, "model.keras_config"),
        ({"dataset": {"tfds": "Bad Name"}}, "dataset.tfds"),
        ({"dataset": {"csv": "ds_x"}}, "dataset.label"),
        ({"dataset": {"tfds": "mnist", "npz": "x"}}, "dataset"),
        ({"labels": {"a b": "c"}}, "labels.a b"),
        ({"labels": {"a": 1}}, "labels.a"),
        ({"publish": {"model": "../x"}}, "publish.model"),
        ({"publish": {"model": "модель"}}, "publish.model"),
        ({"publish": {"model": "x" * 64}}, "publish.model"),
        ({"publish": {"model": "12"}}, "publish.model"),
        ({"publish": {"model": "m", "label": "a/b"}}, "publish.label"),
        ({"retry": {"max_attempts": 0}}, "retry.max_attempts"),
        ({"kind": "distil"}, "kind"),
        ({"name": "x" * 201}, "name"),
        ({"model": None}, "model"),
        ({"fit": []}, "fit"),
    ],
)
def test_what_is_wrong_is_named_by_its_path(client: TestClient, change: dict[str, Any], field: str) -> None:
    answer = client.post("/jobs", json=train_request(**change))
    assert answer.status_code == 422, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(answer.content)
    assert problem.field == field
    assert problem.errors
    assert problem.errors[0]["field"] == field
    assert problem.request_id == answer.headers["x-request-id"]


def test_all_offending_fields_are_listed(client: TestClient) -> None:
    answer = client.post(
        "/jobs", json=train_request(fit={"epochs": 0, "batch_size": 0}, publish={"model": "a/b"})
    )
    problem = Problem.model_validate_json(answer.content)
    assert [error["field"] for error in problem.errors or ()] == [
        "fit.epochs", "fit.batch_size", "publish.model",
    ]  # fmt: skip
    assert "2 more" in problem.detail


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed_body"),
        (b"  \n", 400, "malformed_body"),
        (b"{", 400, "malformed_json"),
        (b"not json", 400, "malformed_json"),
        (b'{"fit": {"learning_rate": NaN}}', 400, "malformed_json"),
        (b"\xff\xfe", 400, "malformed_json"),
        (b'{"name": "\\ud800"}', 400, "malformed_json"),
        (b"[" * 100_000, 400, "malformed_json"),
        (b"[]", 422, "invalid_input"),
        (b"null", 422, "invalid_input"),
        (b'"text"', 422, "invalid_input"),
        (b'{"name": "a\\u0000b"}', 422, "invalid_input"),
    ],
)
def test_bodies_that_are_no_job(client: TestClient, body: bytes, status: int, code: str) -> None:
    answer = client.post("/jobs", content=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert len(answer.json()["detail"]) > 10


def test_an_escaped_backslash_before_u0000_is_no_nul(client: TestClient) -> None:
    answer = client.post("/jobs", json=train_request(name="C:\\u0000"))
    assert answer.status_code == 202
    assert answer.json()["name"] == "C:\\u0000"


def test_a_body_over_the_limit_is_refused(client: TestClient) -> None:
    answer = client.post("/jobs", content=b" " * (2**20 + 1))
    assert answer.status_code == 413
    assert answer.json()["code"] == "too_large"
    assert "MODELYARD_MAX_BODY_MB" in answer.json()["hint"]
    chunked = client.post("/jobs", content=(b" " * 65_536 for _ in range(17)))
    assert chunked.status_code == 413


@pytest.mark.parametrize("job_id", ["nope", "job_" + "0" * 22, "job_%00", "%F0%9F%A6%86", "..%2f..%2fetc"])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", ""),
        ("GET", "/events"),
        ("GET", "/logs"),
        ("GET", "/metrics"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
    ],
)
def test_unknown_jobs_are_not_found(client: TestClient, job_id: str, method: str, path: str) -> None:
    answer = client.request(method, f"/jobs/{job_id}{path}")
    assert answer.status_code == 404
    assert answer.headers["content-type"] == "application/problem+json"


def test_cancelling_twice_is_the_same_as_once(client: TestClient) -> None:
    job_id = client.post("/jobs", json=train_request()).json()["id"]
    first = client.post(f"/jobs/{job_id}/cancel")
    again = client.post(f"/jobs/{job_id}/cancel")
    assert first.status_code == again.status_code == 202
    assert first.json() == again.json()
    assert first.json()["state"] == "cancelled"


def test_cancelling_a_running_job_asks_its_supervisor(client: TestClient, store: Store) -> None:
    job_id = client.post("/jobs", json=train_request()).json()["id"]
    assert store.claims.claim(job_id, "w", 60) is not None
    for _ in range(2):
        job = client.post(f"/jobs/{job_id}/cancel").json()
        assert (job["state"], job["cancel_requested"]) == ("running", True)
    types = [event["type"] for event in client.get(f"/jobs/{job_id}/events").json()["items"]]
    assert types == ["state", "state", "cancel_requested"]


def _failed(client: TestClient, store: Store) -> str:
    job_id: str = client.post("/jobs", json=train_request()).json()["id"]
    taken = store.claims.claim(job_id, "w", 60)
    assert taken is not None
    store.claims.report(taken[0], Report(stage="training"), run_dir="m/some-run")
    store.claims.finish(taken[0], JobState.FAILED, error=JobError("oops", "It broke.", hint="Mend it."))
    return job_id


def test_a_failed_job_shows_why(client: TestClient, store: Store) -> None:
    job = JobView.model_validate_json(client.get(f"/jobs/{_failed(client, store)}").content)
    assert job.error is not None
    assert (job.error.code, job.error.message, job.error.hint) == ("oops", "It broke.", "Mend it.")
    assert job.attempts is not None
    assert [attempt.worker_id for attempt in job.attempts] == ["w"]
    assert "retry" in job.links
    assert "cancel" not in job.links


@pytest.mark.parametrize(
    ("body", "resume_from"),
    [
        (None, "m/some-run"),
        ({}, "m/some-run"),
        ({"from": "checkpoint"}, "m/some-run"),
        ({"from": "scratch"}, None),
    ],
)
def test_a_retry_is_a_new_job(
    client: TestClient, store: Store, body: dict[str, str] | None, resume_from: str | None
) -> None:
    old = _failed(client, store)
    answer = (
        client.post(f"/jobs/{old}/retry", json=body)
        if body is not None
        else client.post(f"/jobs/{old}/retry")
    )
    assert answer.status_code == 202
    new = answer.json()
    assert answer.headers["location"] == f"/jobs/{new['id']}"
    assert new["id"] != old
    assert new["retry_of"] == old
    assert new["state"] == "queued"
    assert store.jobs.get(new["id"]).resume_from == resume_from
    assert client.get(f"/jobs/{old}").json()["state"] == "failed"


def test_retrying_with_a_key_makes_one_job(client: TestClient, store: Store) -> None:
    old = _failed(client, store)
    ids = {client.post(f"/jobs/{old}/retry", headers={"Idempotency-Key": "r"}).json()["id"] for _ in range(3)}
    assert len(ids) == 1
    other = client.post(f"/jobs/{old}/retry", json={"from": "scratch"}, headers={"Idempotency-Key": "r"})
    assert other.status_code == 409


def test_only_failed_and_cancelled_jobs_are_retried(client: TestClient, store: Store) -> None:
    job_id = client.post("/jobs", json=train_request()).json()["id"]
    queued = client.post(f"/jobs/{job_id}/retry")
    assert (queued.status_code, queued.json()["code"]) == (409, "job_not_retryable")
    taken = store.claims.claim(job_id, "w", 60)
    assert taken is not None
    assert client.post(f"/jobs/{job_id}/retry").status_code == 409
    store.claims.finish(taken[0], JobState.SUCCEEDED)
    assert client.post(f"/jobs/{job_id}/retry").status_code == 409
    wrong = client.post(f"/jobs/{_failed(client, store)}/retry", json={"from": "start"})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "from")


def test_events_are_paged(client: TestClient, store: Store) -> None:
    job, _ = store.jobs.create(train_spec())
    taken = store.claims.claim(job.id, "w", 60)
    assert taken is not None
    store.claims.report(taken[0], Report(events=[("info", {"n": n}) for n in range(20)]))
    seen: list[int] = []
    more = True
    while more:
        after = seen[-1] if seen else 0
        page = EventList.model_validate_json(
            client.get(f"/jobs/{job.id}/events", params={"after": after, "limit": 7}).content
        )
        seen += [item.seq for item in page.items]
        more = page.has_more
    assert seen == list(range(1, 23))


def test_metrics_are_thinned_and_chosen(client: TestClient, store: Store) -> None:
    from shared.jobs import MetricPoint

    job, _ = store.jobs.create(train_spec())
    taken = store.claims.claim(job.id, "w", 60)
    assert taken is not None
    points = [
        MetricPoint(name, step, 1, float("nan") if step == 3 else step / 2, 1e9 + step)
        for name in ("loss", "val_loss")
        for step in range(1, 101)
    ]
    store.claims.report(taken[0], Report(points=points))
    view = MetricsView.model_validate_json(client.get(f"/jobs/{job.id}/metrics").content)
    assert [series.name for series in view.series] == ["loss", "val_loss"]
    assert view.series[0].points[2][2] is None
    few = MetricsView.model_validate_json(
        client.get(f"/jobs/{job.id}/metrics", params={"names": "loss,nope", "max_points": 10}).content
    )
    assert [(series.name, series.total) for series in few.series] == [("loss", 100)]
    assert len(few.series[0].points) <= 11
    assert few.series[0].points[0][0] == 1
    assert few.series[0].points[-1][0] == 100


def test_checkpoints_are_listed_with_what_is_wrong_with_them(
    client: TestClient, store: Store, settings: Settings
) -> None:
    job, _ = store.jobs.create(train_spec())
    assert client.get(f"/jobs/{job.id}/checkpoints").json() == {"items": [], "has_more": False}
    taken = store.claims.claim(job.id, "w1", 30)
    assert taken is not None
    store.claims.report(taken[0], Report(), run_dir="m/run")
    folder = settings.paths.runs / "m/run/checkpoints"
    folder.mkdir(parents=True)
    for epoch in (1, 2, 3):
        name = checkpoint_files.stem(epoch, 0)
        data = b"x" * epoch
        (folder / f"{name}.npz").write_bytes(data if epoch != 3 else b"harmed")
        checkpoint_files.write_notes(
            folder / f"{name}.json",
            {
                "sha256": hashlib.sha256(data).hexdigest(),
                "position": {"epoch": epoch, "step": 0, "total": epoch * 10},
                "metrics": {"val_loss": 1.0 / epoch},
                "complete": False,
                "written_at": 5.0,
                "best": {"file": f"{checkpoint_files.stem(1, 0)}.npz"},
            },
        )
    (folder / f"{checkpoint_files.stem(4, 0)}.json").write_text('{"format"')
    answer = client.get(f"/jobs/{job.id}/checkpoints")
    found = CheckpointList.model_validate_json(answer.content).items
    assert [item.verified for item in found] == [False, False, True, True]
    assert [item.best for item in found] == [False, False, False, True]
    assert found[1].problem is not None
    assert "SHA-256" in found[1].problem
    assert (found[2].total, found[2].size_bytes, found[2].metrics) == (20, 2, {"val_loss": 0.5})
    quick = client.get(f"/jobs/{job.id}/checkpoints?verify=false").json()["items"]
    assert [item["verified"] for item in quick] == [False, None, None, None]
    links = client.get(f"/jobs/{job.id}").json()["links"]
    assert links["checkpoints"] == f"/jobs/{job.id}/checkpoints"
    assert links["tensorboard"] == f"/tensorboard/jobs/{job.id}/"
    assert client.get("/jobs/job_none/checkpoints").status_code == 404
