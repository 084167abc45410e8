"""Ids, limits, last resorts, health and metrics: what all requests have in common."""

from __future__ import annotations

import logging
import re

import pytest
from fastapi.testclient import TestClient

from services.api.resources import Resources
from shared.errors import Unavailable
from shared.store import Store
from shared.views import Health, Problem, WorkerList
from tests.builders import train_request


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nope", 404, "route_not_found"),
        ("GET", "/jobs/", 404, "route_not_found"),
        ("PUT", "/jobs", 405, "method_not_allowed"),
        ("DELETE", "/healthz", 405, "method_not_allowed"),
    ],
)
def test_unknown_routes_and_methods_are_problems_too(
    client: TestClient, method: str, path: str, status: int, code: str
) -> None:
    answer = client.request(method, path, follow_redirects=False)
    assert answer.headers["content-type"] == "application/problem+json"
    problem = Problem.model_validate_json(answer.content)
    assert (answer.status_code, problem.status, problem.code) == (status, status, code)
    assert problem.hint


def test_a_request_keeps_its_id(client: TestClient) -> None:
    assert (
        client.get("/healthz", headers={"X-Request-Id": "abc-1.2:3"}).headers["x-request-id"] == "abc-1.2:3"
    )
    made = client.get("/nope", headers={"X-Request-Id": "bad id\x01"})
    assert re.fullmatch("[0-9a-f]{16}", made.headers["x-request-id"])
    assert made.json()["request_id"] == made.headers["x-request-id"]


def test_an_unforeseen_error_is_logged_under_its_request_id(
    client: TestClient,
    resources: Resources,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(resources.store.jobs, "find", broken)
    answer = client.get("/jobs", headers={"X-Request-Id": "find-me"})
    assert answer.status_code == 500
    problem = Problem.model_validate_json(answer.content)
    assert (problem.code, problem.request_id) == ("internal", "find-me")
    assert "secret" not in answer.text
    assert any("find-me" in record.getMessage() and record.exc_info for record in caplog.records)


def test_a_store_that_is_down_is_a_503_worth_a_retry(
    client: TestClient, resources: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*_: object, **__: object) -> None:
        raise Unavailable("The database does not answer.", code="store_unavailable")

    monkeypatch.setattr(resources.store.jobs, "get", down)
    monkeypatch.setattr(resources.store, "ping", down)
    answer = client.get("/jobs/job_" + "0" * 22)
    assert (answer.status_code, answer.json()["code"]) == (503, "store_unavailable")
    assert int(answer.headers["retry-after"]) > 0
    ready = client.get("/readyz")
    assert (ready.status_code, ready.json()["status"]) == (503, "unavailable")
    assert client.get("/healthz").json()["status"] == "ok", "liveness asks nobody"


def test_readiness_names_what_is_missing(client: TestClient, store: Store) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 200, "jobs are accepted without a broker"
    health = Health.model_validate_json(answer.content)
    assert health.status == "degraded"
    assert {name for name, check in health.checks.items() if check["ok"]} == {"store"}
    assert all(check["latency_ms"] >= 0 for check in health.checks.values())
    assert "127.0.0.1:1" in health.checks["broker"]["error"]
    store.workers.beat("w", host="h", pid=1, slots=1, started_at=1.0, info={})
    assert client.get("/readyz").json()["checks"]["workers"]["ok"]


def test_workers_show_their_jobs_and_the_age_of_their_lease(client: TestClient, store: Store) -> None:
    store.workers.beat("w1", host="h", pid=1, slots=2, started_at=1.0, info={"devices": []})
    job_id = client.post("/jobs", json=train_request()).json()["id"]
    store.claims.claim(job_id, "w1", 25)
    store.workers.beat("w2", host="h", pid=2, slots=2, started_at=1.0, info={})
    listed = WorkerList.model_validate_json(client.get("/workers").content)
    first, second = listed.items
    assert (first.id, first.jobs, first.alive) == ("w1", [job_id], True)
    assert first.lease_age_seconds is not None
    assert 4.9 < first.lease_age_seconds < 10, "a lease of 25 s of 30 looks 5 s old"
    assert (second.jobs, second.lease_age_seconds) == ([], None)


def test_metrics_count_requests_by_route_and_jobs_by_state(client: TestClient) -> None:
    for _ in range(3):
        job_id = client.post("/jobs", json=train_request()).json()["id"]
        client.get(f"/jobs/{job_id}")
    client.get("/nope")
    text = client.get("/metrics").text
    assert 'modelyard_http_requests_total{method="GET",route="/jobs/{job_id}",status="200"} 3.0' in text
    assert 'modelyard_http_requests_total{method="GET",route="unmatched",status="404"} 1.0' in text
    assert 'modelyard_jobs{state="queued"} 3.0' in text
    assert 'modelyard_up{dependency="broker"} 0.0' in text
    assert "modelyard_workers_alive 0.0" in text


def test_one_log_line_for_changes_and_failures_only(
    client: TestClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="modelyard.requests")
    client.post("/jobs", json=train_request())
    client.get("/jobs")
    client.get("/healthz")
    client.get("/no%0Ape")
    lines = [record.getMessage() for record in caplog.records if record.name == "modelyard.requests"]
    assert len(lines) == 2
    assert lines[0].startswith("POST /jobs 202 ")
    assert lines[1].startswith("GET '/no\\npe' 404 ")


def test_the_front_door_says_where_to_go(client: TestClient) -> None:
    links = client.get("/").json()["links"]
    assert client.get(links["openapi"]).status_code == 200
    assert client.get(links["docs"]).status_code == 200


def test_tensorboard_that_is_not_set_up_is_a_503(client: TestClient) -> None:
    answer = client.get("/tensorboard/data/runs")
    assert (answer.status_code, answer.json()["code"]) == (503, "tensorboard_unavailable")
    assert "MODELYARD_TENSORBOARD_URL" in answer.json()["hint"]
    assert client.get("/tensorboard", follow_redirects=False).headers["location"] == "/tensorboard/"


def test_a_model_server_that_is_down_is_a_503(client: TestClient) -> None:
    for answer in (
        client.post("/predict", json={"model": "m", "instances": [1]}),
        client.post("/v1/models/m:predict", json={"instances": [1]}),
    ):
        assert (answer.status_code, answer.json()["code"]) == (503, "serving_unavailable")
        assert answer.headers["retry-after"]
