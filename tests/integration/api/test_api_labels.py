"""Labels that split, defaults and shadows, binary bodies and deadlines, at the API's edge."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from starlette.responses import JSONResponse, Response

from shared.specs.traffic import LabelRoute
from tests.integration.api.conftest import Api, ModelServer, Running, publish


@pytest.fixture
def m(api: Api, model_server: ModelServer) -> Api:
    """A model ``m`` with two versions, both loaded."""
    for _ in range(2):
        publish(api.store, "m")
    model_server.states["m"] = {1: "AVAILABLE", 2: "AVAILABLE"}
    return api


def _put(api: Api, label: str, **route: Any) -> None:
    assert api.http.put(f"/models/m/labels/{label}", json=route).status_code == 200


@pytest.mark.parametrize("way", ["/predict", "/v1/models/m/labels/live:predict"])
def test_a_key_decides_the_side_on_both_ways(m: Api, way: str) -> None:
    _put(m, "live", split={"1": 50, "2": 50})

    def ask(key: str | None) -> str:
        body = {"instances": [[1.0]], **({"model": "m", "label": "live"} if way == "/predict" else {})}
        answer = m.http.post(way, json=body, headers={"X-Request-Key": key} if key else {})
        assert answer.status_code == 200, answer.text
        return answer.headers["x-model-version"]

    sides = {f"user-{number}": ask(f"user-{number}") for number in range(20)}
    assert set(sides.values()) == {"1", "2"}
    assert {key: ask(key) for key in sides} == sides
    assert set(Counter(ask(None) for _ in range(40))) == {"1", "2"}


def test_both_ways_draw_alike(m: Api) -> None:
    _put(m, "live", split={"1": 50, "2": 50})
    for number in range(10):
        headers = {"X-Request-Key": f"user-{number}"}
        ours = m.http.post(
            "/predict", json={"model": "m", "label": "live", "instances": [1]}, headers=headers
        )
        theirs = m.http.post("/v1/models/m/labels/live:predict", json={"instances": [1]}, headers=headers)
        assert ours.headers["x-model-version"] == theirs.headers["x-model-version"]


def test_a_default_holds_for_both_ways_and_not_for_named_versions(m: Api) -> None:
    assert m.http.post("/models/m/rollback").json()["default_version"] == 1
    body = {"model": "m", "instances": [1]}
    assert m.http.post("/predict", json=body).json()["version"] == 1
    assert m.http.post("/predict", json={**body, "version": 2}).json()["version"] == 2
    answer = m.http.post("/v1/models/m:predict", json={"instances": [1]})
    assert answer.headers["x-model-version"] == "1"
    again = m.http.post("/models/m/rollback")
    assert (again.status_code, again.json()["code"]) == (409, "nothing_to_roll_back")


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"label": "nobody"}, 404, "label_not_found"),
        ({"version": 9}, 404, "version_not_found"),
        ({"version": "1"}, 422, "invalid_input"),
        ({"to": 1}, 422, "invalid_input"),
    ],
)
def test_a_wrong_rollback_is_answered_in_words(m: Api, body: dict[str, Any], status: int, code: str) -> None:
    answer = m.http.post("/models/m/rollback", json=body)
    assert (answer.status_code, answer.json()["code"]) == (status, code)


def test_a_rollback_says_which_label_when_it_is_not_clear(m: Api) -> None:
    _put(m, "a", version=1)
    _put(m, "b", version=2)
    unclear = m.http.post("/models/m/rollback")
    assert (unclear.status_code, unclear.json()["code"]) == (409, "label_unclear")
    nothing = m.http.post("/models/m/rollback", json={"label": "a"})
    assert (nothing.status_code, nothing.json()["code"]) == (409, "nothing_to_roll_back")
    _put(m, "a", version=2)
    back = m.http.post("/models/m/rollback", json={"label": "a"})
    assert back.json()["labels"] == {"a": 1, "b": 2}


@pytest.mark.parametrize(
    ("route", "status", "code"),
    [
        ({"split": {"nobody": 1, "1": 1}}, 404, "label_not_found"),
        ({"split": {"live": 1, "1": 1}}, 409, "label_loop"),
        ({"version": 1, "shadow": {"to": 9}}, 404, "version_not_found"),
        ({"version": 1, "guard": {"max_error_rate": 2}}, 422, "invalid_input"),
        ({"split": {"1": -1}}, 422, "invalid_input"),
        ({"split": [1]}, 422, "invalid_input"),
    ],
)
def test_a_wrong_route_is_answered_in_words(m: Api, route: dict[str, Any], status: int, code: str) -> None:
    answer = m.http.put("/models/m/labels/live", json=route)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text


def test_a_label_shows_its_route_history_and_what_its_guard_sees(m: Api) -> None:
    _put(m, "live", version=1)
    _put(m, "live", split={"1": 90, "2": 10}, guard={"max_error_rate": 0.5})
    for number in range(30):
        body = {"model": "m", "label": "live", "instances": [1]}
        m.http.post("/predict", json=body, headers={"X-Request-Key": str(number)})
    (label,) = m.http.get("/models/m/labels").json()["items"]
    assert label["route"]["split"] == {"1": 90, "2": 10}
    assert [item["route"] for item in label["history"]] == [{"version": 1}]
    assert sum(item["requests"] for item in label["seen"].values()) == 30
    assert label["seen"]["1"]["error_rate"] == 0


def test_predictions_go_on_while_the_store_is_away(m: Api) -> None:
    _put(m, "live", version=1)
    m.resources.model_server.forget()
    path = m.settings.paths.database
    hidden = path.with_name("hidden")
    m.store.close()
    path.rename(hidden)
    path.mkdir()  # nothing can be opened here
    try:
        answer = m.http.post("/predict", json={"model": "m", "instances": [1]})
        assert (answer.status_code, answer.json()["version"]) == (200, 2)
        labelled = m.http.post("/predict", json={"model": "m", "label": "live", "instances": [1]})
        assert (labelled.status_code, labelled.json()["code"]) == (503, "store_unavailable")
        assert int(labelled.headers["retry-after"]) >= 1
    finally:
        path.rmdir()
        hidden.rename(path)


def test_a_request_that_meets_a_label_just_moved_is_asked_again(m: Api, model_server: ModelServer) -> None:
    _put(m, "live", version=1)
    body = {"model": "m", "label": "live", "instances": [1]}
    assert m.http.post("/predict", json=body).json()["version"] == 1
    # another API process moves it, and the server has let version 1 go
    m.store.labels.put("m", "live", LabelRoute(version=2))
    model_server.states["m"][1] = "END"
    assert m.http.post("/predict", json=body).json()["version"] == 2
    m.store.labels.put("m", "live", LabelRoute(version=1))
    model_server.states["m"] = {1: "AVAILABLE", 2: "END"}
    answer = m.http.post("/v1/models/m/labels/live:predict", json={"instances": [1]})
    assert answer.headers["x-model-version"] == "1"


def _npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def test_an_array_goes_in_and_comes_out_as_bytes(m: Api, model_server: ModelServer) -> None:
    array = np.linspace(0, 1, 6, dtype=np.float32).reshape(2, 3)
    asked = {"model": "m", "version": "1", "signature_name": "s", "input": "x"}
    headers = {"Content-Type": "application/x-npy"}
    answer = m.http.post("/predict", params=asked, content=_npy(array), headers=headers)
    assert answer.status_code == 200, answer.text
    assert np.allclose(answer.json()["outputs"]["x"], array)
    sent = json.loads(model_server.requests[-1][2])
    assert sent["signature_name"] == "s"
    model_server.answer = lambda body: JSONResponse(
        {"outputs": body["inputs"]}, headers={"X-Model-Version": "1"}
    )
    both = {**headers, "Accept": "application/x-npy"}
    answer = m.http.post("/predict", params={"model": "m"}, content=_npy(array), headers=both)
    assert (answer.headers["content-type"], answer.headers["x-model-version"]) == ("application/x-npy", "1")
    assert np.allclose(np.load(io.BytesIO(answer.content)), array)


def test_a_body_that_is_no_array_is_a_400(m: Api) -> None:
    answer = m.http.post(
        "/predict?model=m", content=b"\x93NUMPY", headers={"Content-Type": "application/x-npy"}
    )
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/problem+json")


def test_a_server_that_takes_too_long_is_a_504(
    start_api: Callable[..., Api], serving: Running, model_server: ModelServer
) -> None:
    api = start_api(serving_url=serving.url, predict_timeout_seconds=0.3)
    model_server.states["m"] = {1: "AVAILABLE"}

    class Late(Response):
        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            await asyncio.sleep(20)

    model_server.answer = lambda _: Late()
    began = time.monotonic()
    answer = api.http.post("/predict", json={"model": "m", "version": 1, "instances": [1]})
    assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
    assert time.monotonic() - began < 15


def test_a_server_that_is_down_is_a_503_that_says_when_to_try_again(start_api: Callable[..., Api]) -> None:
    api = start_api()
    for path, body in (
        ("/predict", {"model": "m", "instances": [1]}),
        ("/v1/models/m:predict", {"instances": [1]}),
    ):
        answer = api.http.post(path, json=body)
        assert (answer.status_code, answer.json()["code"]) == (503, "serving_unavailable")
        assert int(answer.headers["retry-after"]) >= 1
