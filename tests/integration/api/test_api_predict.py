"""Predictions and TensorFlow Serving's own paths, through to a model server."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, Response

from shared.specs.traffic import LabelRoute
from shared.views import PredictResponse, Problem
from tests.integration.api.conftest import Api, ModelServer, Running, publish

SIGNATURES = {
    "serving_default": {
        "inputs": {"image": {"dtype": "float32", "shape": [-1, 28, 28, 1]}},
        "outputs": {"probabilities": {"dtype": "float32", "shape": [-1, 10]}},
    },
    "image_bytes": {"inputs": {"bytes": {"dtype": "string", "shape": [-1]}}, "outputs": {}},
}


def _ask(api: Api, **body: Any) -> PredictResponse:
    answer = api.http.post("/predict", json=body)
    assert answer.status_code == 200, answer.text
    view = PredictResponse.model_validate_json(answer.content)
    assert answer.headers["x-model-version"] == str(view.version)
    return view


@pytest.mark.parametrize("names_its_version", [True, False])
def test_the_answer_names_the_version_that_gave_it(
    api: Api, model_server: ModelServer, names_its_version: bool
) -> None:
    model_server.names_its_version = names_its_version
    model_server.states["m"] = {1: "AVAILABLE", 2: "AVAILABLE", 3: "LOADING"}
    for _ in range(3):
        view = _ask(api, model="m", instances=[[1], [2]])
        assert (view.model, view.version, view.predictions) == ("m", 2, [[2.0], [2.0]])
    assert _ask(api, model="m", version=1, instances=[[1]]).version == 1
    model_server.states["m"][3] = "AVAILABLE"
    assert _ask(api, model="m", instances=[[1]]).version == 3
    assert _ask(api, model="m", inputs={"x": [1.5]}).outputs == {"x": [1.5]}


def test_a_server_that_names_its_version_is_asked_once_per_prediction(
    api: Api, model_server: ModelServer
) -> None:
    model_server.states["m"] = {1: "AVAILABLE"}
    _ask(api, model="m", instances=[[1]])
    model_server.requests.clear()
    _ask(api, model="m", instances=[[1]])
    assert [request[:2] for request in model_server.requests] == [("POST", "/v1/models/m:predict")]


def test_numbers_go_through_as_they_were_written(api: Api, model_server: ModelServer) -> None:
    model_server.states["m"] = {1: "AVAILABLE"}
    text = b'{\n    "predictions": [1.0, 0.10000000149011612, 1e-45, 123456789012345678901]\n}'
    model_server.answer = lambda _: Response(text, media_type="application/json")
    answer = api.http.post("/predict", json={"model": "m", "version": 1, "instances": [1]})
    assert b"[1.0, 0.10000000149011612, 1e-45, 123456789012345678901]" in answer.content
    assert list(answer.json()) == ["model", "version", "predictions"]


def test_labels_are_resolved_by_the_store(api: Api, model_server: ModelServer) -> None:
    for _ in range(2):
        publish(api.store, "m")
    model_server.states["m"] = {1: "AVAILABLE", 2: "AVAILABLE"}
    api.store.labels.put("m", "stable", LabelRoute(version=1))
    assert _ask(api, model="m", label="stable", instances=[[1]]).version == 1
    moved = api.http.put("/models/m/labels/stable", json={"version": 2})
    assert moved.status_code == 200
    assert _ask(api, model="m", label="stable", instances=[[1]]).version == 2, (
        "a move through us counts at once"
    )
    unknown = api.http.post("/predict", json={"model": "m", "label": "canary", "instances": [1]})
    assert (unknown.status_code, unknown.json()["code"], unknown.json()["field"]) == (
        404,
        "label_not_found",
        "label",
    )


def test_image_files_are_asked_with_the_signature_for_bytes(api: Api, model_server: ModelServer) -> None:
    model_server.states["m"] = {4: "AVAILABLE"}
    image = b"\x89PNG\r\n\x1a\n" + bytes(range(256))
    answer = api.http.post(
        "/predict",
        data={"model": "m", "version": "4"},
        files=[("image", ("a.png", image)), ("image", ("b", b"x"))],
    )
    assert answer.status_code == 200, answer.text
    assert answer.json() == {"model": "m", "version": 4, "predictions": [[4.0], [4.0]]}
    _, path, body = model_server.requests[-1]
    assert path == "/v1/models/m/versions/4:predict"
    sent = json.loads(body)
    assert sent["signature_name"] == "image_bytes"
    assert [base64.b64decode(item["b64"]) for item in sent["instances"]] == [image, b"x"]


@pytest.mark.parametrize(
    ("instances", "given", "sent"),
    [
        ([{"b64": "eA=="}], None, "image_bytes"),
        ([{"b64": "eA=="}, {"b64": "eA=="}], "mine", "mine"),
        ([{"b64": "eA=="}, [1]], None, None),
        ([{"b64": "eA==", "x": 1}], None, None),
        ([{"image": {"b64": "eA=="}}], None, None),
        ([[1]], "other", "other"),
    ],
)
def test_the_signature_is_chosen_by_the_instances(
    api: Api, model_server: ModelServer, instances: list[Any], given: str | None, sent: str | None
) -> None:
    model_server.states["m"] = {1: "AVAILABLE"}
    _ask(api, model="m", signature_name=given, instances=instances)
    assert json.loads(model_server.requests[-1][2]).get("signature_name") == sent


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ({"instances": [1]}, 422, "model"),
        ({"model": "m"}, 422, "instances"),
        ({"model": "m", "instances": []}, 422, "instances"),
        ({"model": "m", "instances": 3}, 422, "instances"),
        ({"model": "m", "instances": [1], "inputs": [1]}, 422, "instances"),
        ({"model": "m", "instances": [1], "version": 1, "label": "x"}, 422, "label"),
        ({"model": "m", "instances": [1], "version": -1}, 422, "version"),
        ({"model": "m", "instances": [1], "version": "new"}, 422, "version"),
        ({"model": "m", "instances": [1], "extra": 1}, 422, "extra"),
        ({"model": "../../x", "instances": [1]}, 404, "model"),
        ({"model": "a b", "instances": [1]}, 404, "model"),
        ({"model": "", "instances": [1]}, 404, "model"),
        ({"model": "m:predict", "instances": [1]}, 404, "model"),
        ({"model": "ü\u0000", "instances": [1]}, 404, "model"),
        ({"model": "m", "label": "x\u0000", "instances": [1]}, 404, "label"),
        ({"model": "nobody", "instances": [1]}, 404, "model"),
        ({"model": "m", "version": 7, "instances": [1]}, 404, "version"),
        ([1], 422, None),
    ],
)
def test_wrong_questions_are_answered_in_words(
    api: Api, model_server: ModelServer, body: Any, status: int, field: str | None
) -> None:
    publish(api.store, "m")
    model_server.states["m"] = {1: "AVAILABLE"}
    answer = api.http.post("/predict", json=body)
    problem = Problem.model_validate_json(answer.content)
    assert (answer.status_code, problem.field) == (status, field), problem
    assert answer.headers["content-type"] == "application/problem+json"


@pytest.mark.parametrize(
    ("data", "files", "status"),
    [
        ({"model": "m"}, {"x": b"1"}, 422),
        ({"model": "m"}, {"image": b"1", "model": b"2"}, 422),
        ({}, {"image": b"1"}, 422),
        ({"model": "m", "size": "3"}, {"image": b"1"}, 422),
        ({"model": "m", "version": "x"}, {"image": b"1"}, 422),
    ],
)
def test_wrong_forms_are_answered_in_words(
    api: Api, data: dict[str, str], files: dict[str, bytes], status: int
) -> None:
    answer = api.http.post("/predict", data=data, files=files)
    assert answer.status_code == status, answer.text


def test_a_broken_form_is_a_400(api: Api) -> None:
    answer = api.http.post(
        "/predict", content=b"x", headers={"Content-Type": "multipart/form-data; boundary=b"}
    )
    assert (answer.status_code, answer.json()["code"]) == (400, "malformed_body")


def test_a_refusal_says_what_the_signature_takes(api: Api, model_server: ModelServer) -> None:
    publish(api.store, "m", SIGNATURES)
    model_server.states["m"] = {1: "AVAILABLE"}
    message = "input tensor 'image' has shape [2] but [-1,28,28,1] is wanted"
    model_server.answer = lambda _: JSONResponse({"error": message}, 400)
    answer = api.http.post("/predict", json={"model": "m", "instances": [1, 2]})
    problem = Problem.model_validate_json(answer.content)
    assert (answer.status_code, problem.code, problem.detail) == (400, "predict_invalid", message)
    assert problem.hint == "serving_default takes image: float32 of shape [any, 28, 28, 1]."
    named = api.http.post("/predict", json={"model": "m", "instances": [1], "signature_name": "nope"})
    assert named.json()["hint"] == "The version has the signatures image_bytes, serving_default."


@pytest.mark.parametrize(
    ("upstream", "status", "code"),
    [(500, 502, "model_server_failed"), (503, 503, "serving_unavailable"), (504, 504, "deadline_exceeded"),
     (429, 503, "serving_unavailable"), (412, 412, "predict_invalid")],
)  # fmt: skip
def test_the_servers_own_troubles_keep_their_meaning(
    api: Api, model_server: ModelServer, upstream: int, status: int, code: str
) -> None:
    model_server.states["m"] = {1: "AVAILABLE"}
    model_server.answer = lambda _: JSONResponse({"error": "trouble"}, upstream)
    answer = api.http.post("/predict", json={"model": "m", "instances": [1]})
    assert (answer.status_code, answer.json()["code"], answer.json()["detail"]) == (status, code, "trouble")


def test_a_model_that_is_not_loaded_yet_is_worth_a_retry(api: Api, model_server: ModelServer) -> None:
    publish(api.store, "m")
    answer = api.http.post("/predict", json={"model": "m", "instances": [1]})
    assert (answer.status_code, answer.json()["code"]) == (503, "version_not_available")
    assert answer.headers["retry-after"]


def test_a_server_that_was_restarted_is_asked_again(
    start_api: Callable[..., Api], model_server: ModelServer
) -> None:
    model_server.states["m"] = {1: "AVAILABLE"}
    serving = Running(model_server.app()).start()
    api = start_api(serving_url=serving.url)
    assert _ask(api, model="m", instances=[1]).version == 1
    serving.stop()
    assert api.http.post("/predict", json={"model": "m", "instances": [1]}).status_code == 503
    again = Running(model_server.app(), serving.port).start()
    try:
        assert _ask(api, model="m", instances=[1]).version == 1
    finally:
        again.stop()


def test_arrays_go_unread_to_a_server_that_takes_them(api: Api, model_server: ModelServer) -> None:
    publish(api.store, "m")
    publish(api.store, "m")
    model_server.states["m"] = {1: "AVAILABLE", 2: "AVAILABLE"}
    model_server.takes_npy = True
    api.store.labels.put("m", "stable", LabelRoute.model_validate({"version": 1, "shadow": {"to": 2}}))
    raw = b"\x93NUMPY, as far as the API looks"
    answer = api.http.post(
        "/predict?model=m&label=stable&signature_name=a%26b&input=x%20y",
        content=raw,
        headers={"Content-Type": "application/x-npy", "Accept": "application/x-npy", "X-Request-Id": "mine"},
    )
    assert (answer.status_code, answer.content) == (200, raw)
    assert (answer.headers["content-type"], answer.headers["x-model-version"]) == ("application/x-npy", "1")
    deadline = time.monotonic() + 30
    while len(model_server.requests) < 3:
        assert time.monotonic() < deadline, "the shadow was not asked"
        time.sleep(0.01)
    assert model_server.requests[1:] == [
        ("POST", f"/v1/models/m/versions/{version}:predict?signature_name=a%26b&input=x+y", raw)
        for version in (1, 2)
    ]
    assert [headers["x-request-id"] for headers in model_server.headers[1:]] == ["mine", "mine"]
    wrong = api.http.post("/predict?modell=m", content=raw, headers={"Content-Type": "application/x-npy"})
    assert (wrong.status_code, wrong.json()["field"]) == (422, "modell")


# --- /v1 ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 10, 5_000_000])
def test_bodies_pass_through_unchanged(api: Api, model_server: ModelServer, size: int) -> None:
    body = bytes(n % 251 for n in range(size))
    answer = api.http.post(
        "/v1/models/m:echo?a=%20b&c", content=body,
        headers={"X-Mine": "2", "Content-Type": "x/y", "Connection": "keep-alive, X-Secret", "X-Secret": "s"},
    )  # fmt: skip
    assert answer.status_code == 299
    assert answer.content == body
    assert answer.headers["content-type"] == "application/x-echo"
    assert answer.headers["x-own"] == "1"
    assert "x-drop" not in answer.headers
    assert answer.headers["x-request-id"]
    method, path, seen = model_server.requests[-1]
    assert (method, path, seen) == ("POST", "/v1/models/m:echo?a=%20b&c", body)
    headers = model_server.headers[-1]
    assert (headers["x-mine"], headers["content-type"]) == ("2", "x/y")
    assert "x-secret" not in headers
    assert headers["host"] == api.settings.serving_url.removeprefix("http://")


def test_chunked_bodies_pass_through(api: Api, model_server: ModelServer) -> None:
    answer = api.http.post("/v1/models/m:echo", content=(b"x" * 1000 for _ in range(100)))
    assert answer.content == b"x" * 100_000


def test_labels_in_the_path_become_versions(api: Api, model_server: ModelServer) -> None:
    publish(api.store, "m")
    api.store.labels.put("m", "stable", LabelRoute(version=1))
    model_server.states["m"] = {1: "AVAILABLE"}
    answer = api.http.post("/v1/models/m/labels/stable:predict", json={"instances": [1]})
    assert answer.json() == {"predictions": [[1.0]]}
    for path, seen in (
        ("/v1/models/m/labels/stable", "/v1/models/m/versions/1"),
        ("/v1/models/m/labels/stable/metadata", "/v1/models/m/versions/1/metadata"),
        ("/v1/models/m/labels/canary", "/v1/models/m/labels/canary"),
        ("/v1/models/m%2Fx/labels/stable", "/v1/models/m%2Fx/labels/stable"),
        ("/v1/models/m/metadata", "/v1/models/m/metadata"),
    ):
        api.http.get(path)
        assert model_server.requests[-1][1] == seen


def test_answers_keep_the_servers_own_errors(api: Api) -> None:
    answer = api.http.get("/v1/models/nobody")
    assert (answer.status_code, answer.json()) == (404, {"error": "Could not find any versions of model"})
    climbing = httpx.Request("GET", f"{api.url}/v1/models/%2e%2e/%2e%2e/secret")
    assert api.http.send(climbing).json()["code"] == "route_not_found"


def test_predictions_are_counted_by_model(api: Api, model_server: ModelServer) -> None:
    model_server.states["m"] = {1: "AVAILABLE"}
    for model in ("m", "m", "nobody"):
        api.http.post("/predict", json={"model": model, "instances": [1]})
    text = api.http.get("/metrics").text
    assert 'modelyard_predictions_total{model="m"} 2.0' in text
    assert "nobody" not in text


# --- models -------------------------------------------------------------------------------------------------------


def test_models_show_what_is_served(api: Api, model_server: ModelServer) -> None:
    for name in ("a", "b", "b"):
        publish(api.store, name, SIGNATURES)
    model_server.states["b"] = {1: "END", 2: "AVAILABLE"}
    listed = api.http.get("/models").json()["items"]
    assert [(item["name"], item["latest_version"], item["serving_versions"]) for item in listed] == [
        ("a", 1, []), ("b", 2, [2]),
    ]  # fmt: skip
    versions = api.http.get("/models/b/versions").json()
    assert [(item["version"], item["serving_state"]) for item in versions["items"]] == [
        (2, "AVAILABLE"),
        (1, "END"),
    ]
    one = api.http.get("/models/a/versions/1").json()
    assert (one["serving_state"], one["signatures"]) == (None, SIGNATURES)
    paged = api.http.get("/models/b/versions", params={"limit": 1}).json()
    assert paged["has_more"]
    assert api.http.get("/models/b/versions", params={"after": 2}).json()["items"][0]["version"] == 1
    assert api.http.get("/models?limit=1&after=a").json()["items"][0]["name"] == "b"


def test_models_are_shown_while_the_model_server_is_down(start_api: Callable[..., Api]) -> None:
    api = start_api()
    publish(api.store, "m")
    assert api.http.get("/models").json()["items"][0]["serving_versions"] == []
    assert api.http.get("/models/m").json()["latest_version"] == 1
    assert api.http.get("/models/m/versions/1").json()["serving_state"] is None
    answer = api.http.put("/models/m/labels/stable", json={"version": 1})
    assert (answer.status_code, answer.json()["code"]) == (503, "serving_unavailable")


def test_a_label_points_at_available_versions_only(api: Api, model_server: ModelServer) -> None:
    publish(api.store, "m")
    publish(api.store, "m")
    model_server.states["m"] = {1: "AVAILABLE", 2: "LOADING"}
    done = api.http.put("/models/m/labels/stable", json={"version": 1})
    assert (done.status_code, done.json()["labels"]) == (200, {"stable": 1})
    early = api.http.put("/models/m/labels/stable", json={"version": 2})
    assert (early.status_code, early.json()["code"]) == (409, "version_not_available")
    assert "LOADING" in early.json()["detail"]
    for label, body, status in (
        ("stable", {"version": 9}, 404),
        ("stable", {"version": 10**30}, 422),
        ("stable", {"version": "1"}, 422),
        ("stable", {}, 422),
        ("a b", {"version": 1}, 422),
        ("12", {"version": 1}, 422),
    ):
        assert api.http.put(f"/models/m/labels/{label}", json=body).status_code == status
    assert api.http.put("/models/nobody/labels/stable", json={"version": 1}).status_code == 404
    busy = api.http.delete("/models/m/versions/1")
    assert (busy.status_code, busy.json()["code"]) == (409, "version_labelled")
    for _ in range(2):
        assert api.http.delete("/models/m/labels/stable").status_code == 204
    assert api.http.delete("/models/nobody/labels/stable").status_code == 404


def test_a_deleted_version_is_gone_from_disk(api: Api) -> None:
    publish(api.store, "m")
    folder = api.settings.paths.models / "m" / "1"
    folder.mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"x")
    assert api.http.delete("/models/m/versions/1").status_code == 204
    assert not folder.exists()
    assert api.http.delete("/models/m/versions/1").status_code == 404
    assert api.http.get("/models/m/versions/1").status_code == 404
    gone = api.http.post("/predict", json={"model": "m", "instances": [1]})
    assert (gone.status_code, gone.json()["code"]) == (404, "version_not_found")


@pytest.mark.parametrize("name", ["nobody", "%00", "..%2f..", "%F0%9F%A6%86", "x" * 500])
def test_unknown_models_are_not_found(api: Api, name: str) -> None:
    for path in ("", "/versions", "/versions/1"):
        assert api.http.get(f"/models/{name}{path}").status_code == 404
    assert api.http.delete(f"/models/{name}/versions/1").status_code == 404
