"""How the client sends, retries and reads: against a transport that answers as written here."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

import modelyard
from modelyard import AsyncClient, AsyncJob, Client, Job
from modelyard.client import aio, call, sync
from shared.errors import InvalidInput
from tests.unit.modelyard.answers import JOB, SPEC, client_for, job_body, problem


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.sleep", lambda _seconds: None)


def test_a_submit_whose_answer_was_lost_is_sent_again_with_the_same_key() -> None:
    client, seen = client_for(httpx.ReadTimeout("lost"), problem(503), httpx.Response(202, json=job_body()))
    job = client.jobs.submit(SPEC)
    assert job.id == JOB
    keys = {request.headers["idempotency-key"] for request in seen}
    assert len(seen) == 3
    assert len(keys) == 1


def test_two_submits_have_different_keys_unless_one_is_given() -> None:
    client, seen = client_for(httpx.Response(202, json=job_body()))
    client.jobs.submit(SPEC)
    client.jobs.submit(SPEC)
    client.jobs.submit(SPEC, idempotency_key="mine")
    keys = [request.headers["idempotency-key"] for request in seen]
    assert len(set(keys)) == 3
    assert keys[2] == "mine"


def test_what_may_have_had_an_effect_is_not_sent_twice(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("x,y\n1,2\n")
    client, seen = client_for(httpx.ReadTimeout("lost"))
    with pytest.raises(modelyard.Unreachable):
        client.datasets.upload(tmp_path / "a.csv")
    assert len(seen) == 1


def test_a_connection_that_was_refused_is_tried_again_then_explained() -> None:
    client, seen = client_for(httpx.ConnectError("refused"))
    with pytest.raises(modelyard.Unreachable, match="http://test") as caught:
        client.workers()
    assert len(seen) == call.MAX_TRIES
    assert "modelyard up" in str(caught.value.hint)


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (400, "malformed", modelyard.InvalidRequest),
        (404, "job_not_found", modelyard.NotFound),
        (409, "conflict", modelyard.Conflict),
        (409, "idempotency_conflict", modelyard.IdempotencyConflict),
        (413, "too_large", modelyard.InvalidRequest),
        (422, "invalid_input", modelyard.InvalidRequest),
        (500, "internal", modelyard.ServerError),
        (503, "unavailable", modelyard.Unavailable),
    ],
)
def test_problems_become_typed_errors(status: int, code: str, kind: type[modelyard.ApiError]) -> None:
    client, _ = client_for(problem(status, code, field="fit.epochs", hint="Do this."))
    with pytest.raises(kind) as caught:
        client.jobs.get(JOB)
    error = caught.value
    assert (error.status, error.code, error.field, error.hint) == (status, code, "fit.epochs", "Do this.")
    assert str(error) == "It is so."


def test_an_error_page_of_a_proxy_is_quoted() -> None:
    client, _ = client_for(httpx.Response(418, text="<h1>I am a teapot</h1>"))
    with pytest.raises(modelyard.ServerError, match="teapot"):
        client.jobs.get(JOB)


def test_members_of_a_newer_server_are_ignored() -> None:
    client, _ = client_for(httpx.Response(200, json=job_body(progress=None, also_new={"a": 1})))
    assert client.jobs.get(JOB).state == "queued"


def test_filters_that_are_not_set_are_not_sent() -> None:
    client, seen = client_for(httpx.Response(200, json={"items": [], "has_more": False}))
    client.jobs.list(state="failed", limit=3, model=None)
    assert dict(seen[0].url.params) == {"state": "failed", "limit": "3"}


def test_arrays_are_sent_as_numbers() -> None:
    client, seen = client_for(httpx.Response(200, json={"model": "m", "version": 2, "predictions": [[0.5]]}))
    answer = client.predict("m", instances=np.arange(4, dtype=np.uint8).reshape(2, 2), label="stable")
    body = json.loads(seen[0].content)
    assert body["instances"] == [[0, 1], [2, 3]]
    assert body["label"] == "stable"
    assert answer.version == 2


def test_images_go_as_a_form_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"first")
    client, seen = client_for(httpx.Response(200, json={"model": "m", "version": 1, "predictions": []}))
    client.predict("m", images=[tmp_path / "a.png", b"second"], version=1)
    body = seen[0].content
    assert seen[0].headers["content-type"].startswith("multipart/form-data")
    assert body.index(b"first") < body.index(b"second")
    assert b'name="version"\r\n\r\n1' in body


@pytest.mark.parametrize("name", ["../x", "12", "a/b", ""])
def test_a_model_name_that_could_leave_its_path_is_refused_here(name: str) -> None:
    client, seen = client_for(httpx.Response(200, json={}))
    with pytest.raises(InvalidInput):
        client.models.get(name)
    assert not seen


def test_a_job_id_can_not_leave_its_path() -> None:
    client, seen = client_for(problem(404))
    with pytest.raises(modelyard.NotFound):
        client.jobs.get("../models")
    assert seen[0].url.raw_path == b"/jobs/..%2Fmodels"


def test_wait_raises_by_how_the_job_ended() -> None:
    failed = job_body(
        state="failed", error={"code": "data_invalid", "message": "no rows", "hint": "add rows"}
    )
    client, _ = client_for(
        httpx.Response(200, json=job_body(state="running")), httpx.Response(200, json=failed)
    )
    with pytest.raises(modelyard.JobFailed, match="no rows") as caught:
        client.jobs.get(JOB).wait()
    assert caught.value.code == "data_invalid"
    assert caught.value.hint == "add rows"
    client, _ = client_for(httpx.Response(200, json=job_body(state="cancelled")))
    with pytest.raises(modelyard.JobCancelled):
        client.jobs.get(JOB).wait()
    assert client.jobs.get(JOB).wait(check=False).state == "cancelled"


def test_wait_gives_up_in_time() -> None:
    client, _ = client_for(httpx.Response(200, json=job_body(state="running")))
    with pytest.raises(modelyard.WaitTimeout, match="still running"):
        client.jobs.get(JOB).wait(timeout=0.0)


def test_readiness_of_503_is_an_answer() -> None:
    body = {"status": "unavailable", "checks": {"store": {"ok": False}}, "version": "1"}
    client, seen = client_for(httpx.Response(503, json=body))
    assert client.ready().status == "unavailable"
    assert len(seen) == 1


def test_the_async_client_says_the_same() -> None:
    answers = iter([problem(503), httpx.Response(202, json=job_body()), problem(404, "job_not_found")])

    async def talk() -> str:
        transport = httpx.MockTransport(lambda _request: next(answers))
        async with AsyncClient("http://test", transport=transport) as client:
            job = await client.jobs.submit(SPEC)
            with pytest.raises(modelyard.NotFound):
                await job.refresh()
            return job.id

    assert asyncio.run(talk()) == JOB


PAIRS = [
    (Client, AsyncClient),
    (Job, AsyncJob),
    (sync.Jobs, aio.AsyncJobs),
    (sync.Models, aio.AsyncModels),
    (sync.Datasets, aio.AsyncDatasets),
]


def public(kind: type) -> dict[str, Callable[..., Any]]:
    return {name: item for name, item in vars(kind).items() if not name.startswith("_") and callable(item)}


@pytest.mark.parametrize(("plain", "awaited"), PAIRS)
def test_both_clients_have_the_same_methods_and_parameters(plain: type, awaited: type) -> None:
    assert public(plain).keys() == public(awaited).keys()
    for name, method in public(plain).items():
        ours, theirs = (inspect.signature(item).parameters for item in (method, public(awaited)[name]))
        assert list(ours) == list(theirs), name
        assert [p.default for p in ours.values()] == [p.default for p in theirs.values()], name
        assert [p.kind for p in ours.values()] == [p.kind for p in theirs.values()], name


def test_everything_that_is_exported_is_there() -> None:
    assert sorted(modelyard.__all__) == modelyard.__all__
    for name in modelyard.__all__:
        assert hasattr(modelyard, name)
