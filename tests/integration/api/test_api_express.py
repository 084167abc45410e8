"""Predictions without ASGI: nobody can tell which of both ways a request went, but by the time it took."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from services.api import hot_path
from services.api.access import callers
from shared.keys import Role, new_key
from tests.integration.api.conftest import Api, ModelServer, Running, publish

ROWS = [[0.25] * 40 for _ in range(30)]
# uvicorn's own protocol takes over a connection that is to be closed
BY_ASGI = {"Connection": "close"}
OF_ONE_ANSWER = ("date", "x-request-id", "connection", "ratelimit-remaining", "ratelimit-reset")
PREDICT = {"model": "m", "instances": ROWS}


@pytest.fixture
def m(api: Api, model_server: ModelServer) -> Api:
    model_server.states["m"] = {1: "AVAILABLE", 2: "AVAILABLE"}
    publish(api.store, "m")
    publish(api.store, "m")
    assert api.http.post("/predict", json=PREDICT).status_code == 200
    return api


@pytest.fixture
def by_asgi(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the requests that came to the ASGI application."""
    seen: list[str] = []
    call = hot_path.HotPath.__call__

    async def noted(self: Any, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            seen.append(scope["path"])
        await call(self, scope, receive, send)

    monkeypatch.setattr(hot_path.HotPath, "__call__", noted)
    return seen


def _keys(api: Api, **limits: Any) -> dict[str, str]:
    """A key of each role; ``limits`` are the predictor's. The API asks for keys from now on."""
    made = {}
    for role in Role:
        key = new_key()
        more = {"limits": limits} if role is Role.PREDICTOR and limits else {}
        api.store.keys.add(key, name=f"the {role}", role=role, created_by="local", **more)
        made[role.value] = key.text
    api.resources.access.lock.look()  # at once; that it does so by itself is shown where doors are tested
    assert api.resources.access.lock.locked
    return made


def _bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def _told(answer: httpx.Response) -> tuple[int, dict[str, str], Any]:
    headers = {name: value for name, value in answer.headers.items() if name not in OF_ONE_ANSWER}
    body = answer.json()
    if "request_id" in body:
        assert body.pop("request_id") == answer.headers["x-request-id"]
        headers.pop("content-length")
    return answer.status_code, headers, body


def _both(api: Api, path: str, content: bytes, **headers: str) -> tuple[int, dict[str, str], Any]:
    """The answer, which both ways agree on; asked twice, for what is remembered may answer the second time."""
    for _ in range(2):
        quick = _told(api.http.post(path, content=content, headers=headers))
        slow = _told(api.http.post(path, content=content, headers={**headers, **BY_ASGI}))
        assert quick == slow
    return quick


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/predict", PREDICT, 200),
        ("/predict", {"model": "m", "inputs": ROWS, "version": 1}, 200),
        ("/predict", {**PREDICT, "label": "nope"}, 404),
        ("/predict", {**PREDICT, "model": "nope"}, 404),
        ("/predict", {**PREDICT, "version": 7}, 404),
        ("/predict", {**PREDICT, "modell": 1}, 422),
        ("/predict", {"model": "m", "instances": []}, 422),
        ("/predict", [], 422),
        ("/v1/models/m:predict", {"instances": ROWS}, 200),
        ("/v1/models/m/versions/1:predict", {"instances": ROWS}, 200),
        ("/v1/models/m/versions/7:predict", {"instances": ROWS}, 404),
        ("/v1/models/nope:predict", {"instances": ROWS}, 404),
        ("/v1/models/m/labels/nope:predict", {"instances": ROWS}, 200),
        ("/v1/models/m/versions/1:predict?a=b%20c", {"instances": ROWS}, 200),
        ("/v1/models/%6d:predict", {"instances": ROWS}, 200),
    ],
)  # fmt: skip
def test_both_ways_answer_alike(m: Api, path: str, body: Any, status: int, by_asgi: list[str]) -> None:
    assert _both(m, path, json.dumps(body).encode())[0] == status
    assert len(by_asgi) == 2, "the others were answered before"


def test_bodies_that_are_no_json_are_refused_alike(m: Api) -> None:
    for raw in (b"", b"{", b"\xff", b'{"model": "m", "instances": [' + b"[1]," * 1000):
        assert _both(m, "/predict", raw)[0] == 400
    assert _both(m, "/v1/models/m:predict", b"{")[0] == 400


def test_reading_about_a_model_goes_both_ways_too(m: Api) -> None:
    for path in ("/v1/models/m", "/v1/models/nope"):
        quick, slow = m.http.get(path), m.http.get(path, headers=BY_ASGI)
        assert (quick.status_code, quick.content) == (slow.status_code, slow.content)


def test_strangers_and_pages_of_others_are_refused_alike(m: Api) -> None:
    body = json.dumps(PREDICT).encode()
    assert _both(m, "/predict", body, Host="evil.example")[0] == 403
    assert _both(m, "/predict", body, Origin="https://evil.example")[0] == 403
    assert _both(m, "/predict", body, **{"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert _both(m, "/predict", body, **{"X-Forwarded-For": "10.0.0.1"})[0] == 403


def test_a_key_opens_both_ways_and_only_as_far_as_its_role_goes(m: Api, by_asgi: list[str]) -> None:
    keys = _keys(m)
    for path, data in (("/predict", PREDICT), ("/v1/models/m:predict", {"instances": ROWS})):
        body = json.dumps(data).encode()
        assert _both(m, path, body)[0] == 401
        assert _both(m, path, body, **_bearer("my_0_no"))[0] == 401
        assert _both(m, path, body, **_bearer(keys["viewer"]))[0] == 403
        for role in ("admin", "developer", "predictor"):
            by_asgi.clear()
            assert _both(m, path, body, **_bearer(keys[role]))[0] == 200
            assert len(by_asgi) <= 3, "a key that was good a moment ago is not asked for again"
        assert _both(m, path, body, **{"X-API-Key": keys["predictor"]})[0] == 200
    m.resources.store.keys.revoke(keys["predictor"].split("_")[1])
    m.resources.access.callers.forget()
    assert _both(m, "/predict", json.dumps(PREDICT).encode(), **_bearer(keys["predictor"]))[0] == 401


def test_refusals_are_audited(m: Api) -> None:
    keys = _keys(m)
    m.http.post("/predict", json=PREDICT, headers={**_bearer(keys["viewer"]), "X-Request-Id": "find-me"})
    deadline = time.monotonic() + 30
    while True:
        found = m.http.get("/audit", headers=_bearer(keys["admin"])).json()["items"]
        if any(item["request_id"] == "find-me" for item in found):
            break
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_rate_holds_over_both_ways(m: Api) -> None:
    keys = _keys(m, predictions="8/hour")
    left = []
    for number in range(10):
        way = BY_ASGI if number % 3 == 2 else {}
        answer = m.http.post("/predict", json=PREDICT, headers={**_bearer(keys["predictor"]), **way})
        left.append(
            (answer.status_code, answer.headers["ratelimit-limit"], answer.headers["ratelimit-remaining"])
        )
    assert left == [(200, "8", str(7 - n)) for n in range(8)] + [(429, "8", "0")] * 2


def test_a_keys_body_limit_holds_on_both_ways(m: Api) -> None:
    keys = _keys(m, max_body_mb=1)
    headers = _bearer(keys["predictor"])
    fits = json.dumps(PREDICT).encode().ljust(2**20)
    assert _both(m, "/predict", fits, **headers)[0] == 200
    answer = m.http.post("/predict", content=fits + b" ", headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_a_stranger_is_refused_before_his_body_is_read(m: Api) -> None:
    _keys(m)
    with socket.create_connection(("127.0.0.1", m.running.port), timeout=30) as client:
        client.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n{")
        assert client.recv(100).startswith(b"HTTP/1.1 401 ")


def test_a_large_body_of_a_key_to_be_looked_up_again_costs_the_connection_nothing(
    m: Api, by_asgi: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = _bearer(_keys(m)["predictor"])
    large = json.dumps(PREDICT).encode().ljust(300_000)
    assert m.http.get("/v1/models/m", headers=headers).status_code == 200
    with monkeypatch.context() as aged:
        aged.setattr(callers, "FRESH_SECONDS", -1.0)
        by_asgi.clear()
        assert m.http.post("/predict", content=large, headers=headers).status_code == 200
        assert by_asgi == ["/predict"]
    assert m.http.post("/predict", content=large, headers=headers).status_code == 200
    assert by_asgi == ["/predict"], "the second was answered before"
    m.resources.store.keys.revoke(headers["Authorization"].split("_")[1])
    monkeypatch.setattr(callers, "FRESH_SECONDS", -1.0)
    assert m.http.post("/predict", content=large, headers=headers).status_code == 401


def test_requests_are_counted_and_named_alike(m: Api) -> None:
    def counted() -> dict[str, float]:
        text = m.http.get("/metrics").text
        lines = [line for line in text.splitlines() if "predict" in line and line[0] != "#"]
        return {
            line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if "bucket" not in line
        }

    asked = 'modelyard_http_requests_total{method="POST",route="/predict",status="200"}'
    failed = 'modelyard_http_requests_total{method="POST",route="/predict",status="404"}'
    timed = 'modelyard_http_request_seconds_count{method="POST",route="/predict"}'
    for way in ({}, BY_ASGI):
        before = counted()
        answer = m.http.post("/predict", json=PREDICT, headers={**way, "X-Request-Id": "mine-1"})
        assert answer.headers["x-request-id"] == "mine-1"
        assert len(m.http.post("/predict", json=PREDICT, headers=way).headers["x-request-id"]) == 16
        m.http.post("/predict", json={**PREDICT, "label": "nope"}, headers=way)
        after = counted()
        assert after[asked] - before[asked] == 2
        assert after[failed] - before.get(failed, 0) == 1
        assert after[timed] - before[timed] == 3
        assert (
            after['modelyard_predictions_total{model="m"}'] - before['modelyard_predictions_total{model="m"}']
            == 2
        )


def test_the_model_server_gets_the_same_from_both(m: Api, model_server: ModelServer) -> None:
    for path, data in (("/predict", PREDICT), ("/v1/models/m:predict", {"instances": ROWS})):
        seen = []
        for way in ({}, BY_ASGI):
            model_server.requests.clear()
            model_server.headers.clear()
            m.http.post(path, json=data, headers={**way, "X-Request-Id": "a", "Cookie": "b=c", "X-Own": "d"})
            headers = {name: value for name, value in model_server.headers[-1].items() if name != "host"}
            assert "cookie" not in headers
            seen.append((model_server.requests[-1], headers))
        assert seen[0] == seen[1]


def test_an_error_nobody_foresaw_is_a_500_with_an_id_and_the_connection_goes_on(
    m: Api, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as broken:
        for name in ("predict_at_hand", "predicted"):
            broken.setattr(m.resources.model_server.__class__, name, lambda *_: 1 / 0)
            answer = m.http.post("/predict", json=PREDICT, headers={"X-Request-Id": "find-me"})
            assert (answer.status_code, answer.json()["code"]) == (500, "internal")
            assert answer.json()["request_id"] == "find-me"
            broken.undo()
            assert m.http.post("/predict", json=PREDICT).status_code == 200
    assert any("find-me" in record.getMessage() and record.exc_info for record in caplog.records)


def test_failures_have_a_log_line(m: Api, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="modelyard.requests")
    for way in ({}, BY_ASGI):
        caplog.clear()
        m.http.post("/predict", json=PREDICT, headers=way)
        m.http.post("/predict", json={**PREDICT, "label": "nope"}, headers=way)
        deadline = time.monotonic() + 30
        while not (lines := [one.getMessage() for one in caplog.records if one.name == "modelyard.requests"]):
            assert time.monotonic() < deadline, "it is written after the answer"
            time.sleep(0.01)
        assert len(lines) == 1
        assert lines[0].startswith("POST /predict 404 ")


def test_a_model_server_that_breaks_off_and_comes_back_is_asked_again(
    start_api: Callable[..., Api], model_server: ModelServer
) -> None:
    model_server.states["m"] = {1: "AVAILABLE"}
    first = Running(model_server.app()).start()
    api = start_api(serving_url=first.url)
    for _ in range(3):
        assert api.http.post("/predict", json=PREDICT).status_code == 200
    first.stop()
    answer = api.http.post("/predict", json=PREDICT)
    assert (answer.status_code, answer.json()["code"]) == (503, "serving_unavailable")
    again = Running(model_server.app(), first.port).start()
    try:
        for path in ("/predict", "/v1/models/m:predict"):
            assert api.http.post(path, json=PREDICT).status_code == 200
    finally:
        again.stop()


def test_many_callers_at_once_get_their_own_answers(m: Api, model_server: ModelServer) -> None:
    wrong: list[Any] = []

    def call(number: int) -> None:
        with httpx.Client(base_url=m.url, timeout=60) as http:
            for turn in range(20):
                rows = [[float(number), float(turn)]] * 60
                answer = http.post("/predict", json={"model": "m", "inputs": rows}).json()
                if answer.get("outputs") != rows:
                    wrong.append(answer)

    threads = [threading.Thread(target=call, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
