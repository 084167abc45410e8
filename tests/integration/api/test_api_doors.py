"""What of the door needs real servers: Redis coming and going, and what the model server and TensorBoard get to see."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from services.api import streams
from services.api.access import door, throttle
from shared.keys import Role, new_key
from tests.builders import train_spec
from tests.conftest import Broker
from tests.integration.api.conftest import Api, ModelServer, Running, publish


def _locked(api: Api, role: Role = Role.ADMIN, **more: Any) -> str:
    """A new key; the API asks for keys from now on."""
    made = []
    for wanted in (Role.ADMIN, role):
        key = new_key()
        api.store.keys.add(key, name=f"the {wanted}", role=wanted, created_by="local", **more)
        made.append(key.text)
    deadline = time.monotonic() + 20
    while not api.resources.access.lock.locked:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return made[-1]


def test_credentials_go_no_further(
    start_api: Callable[..., Api], serving: Running, model_server: ModelServer
) -> None:
    # the other server stands for TensorBoard too
    api = start_api(serving_url=serving.url, tensorboard_url=serving.url)
    model_server.states["m"] = {1: "AVAILABLE"}
    publish(api.store, "m")
    key = _locked(api)
    carriers = ({"Authorization": f"Bearer {key}"}, {"X-API-Key": key})
    for headers in carriers:
        for method, path in (
            ("POST", "/v1/models/m:predict"),
            ("GET", "/v1/models/m"),
            ("POST", "/predict"),
            ("GET", "/tensorboard/v1/models/m"),
            ("POST", "/v1/models/m/versions/1:echo"),
        ):
            body: dict[str, Any] = (
                {"instances": [1]} if path != "/predict" else {"model": "m", "instances": [1]}
            )
            answer = api.http.request(
                method, path, json=body if method == "POST" else None, headers={**headers, "Cookie": "a=b"}
            )
            # that server has no such page
            assert answer.status_code in (200, 299) or path.startswith("/tensorboard"), (path, answer.text)
    large = b'{"instances": [1]}'.ljust(1_600_000)  # streamed through
    assert api.http.post("/v1/models/m:predict", content=large, headers=carriers[0]).status_code == 200
    assert len(model_server.headers) >= 11
    for seen in model_server.headers:
        assert not {"authorization", "x-api-key", "cookie"} & set(seen)
        assert key not in str(seen)


def test_limits_are_counted_together_by_all_processes(start_api: Callable[..., Api], broker: Broker) -> None:
    limits = {"rate_limits": {Role.VIEWER: "6/hour"}, "broker_url": broker.url}
    one, two = start_api(**limits), start_api(**limits)
    headers = {"Authorization": f"Bearer {_locked(one, Role.VIEWER)}"}
    deadline = time.monotonic() + 20
    while two.http.get("/healthz").status_code != 200 or not two.resources.access.lock.locked:
        assert time.monotonic() < deadline
    codes = [api.http.get("/session", headers=headers).status_code for api in (one, two) * 4]
    assert codes == [200] * 6 + [429] * 2


def test_while_redis_is_away_each_process_counts_for_itself(
    start_api: Callable[..., Api], broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(throttle, "AWAY_SECONDS", 0.3)
    api = start_api(rate_limits={Role.VIEWER: "3/hour"}, broker_url=broker.url)
    headers = {"Authorization": f"Bearer {_locked(api, Role.VIEWER)}"}
    assert api.http.get("/session", headers=headers).status_code == 200
    broker.stop()
    codes = [api.http.get("/session", headers=headers).status_code for _ in range(4)]
    assert codes == [200, 200, 200, 429]
    broker.start()
    deadline = time.monotonic() + 20
    while api.http.get("/session", headers=headers).status_code != 200:
        assert time.monotonic() < deadline, "Redis is there again, and knows of one request"
        time.sleep(0.1)


def test_a_stream_that_is_open_ends_with_its_key(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE_SECONDS", 0.2)
    monkeypatch.setattr(door, "STREAM_SECONDS", 0.2)
    job, _ = api.store.jobs.create(train_spec())
    key = _locked(api, Role.VIEWER)
    headers = {"Authorization": f"Bearer {key}", "Accept": "text/event-stream"}
    with api.http.stream("GET", f"/jobs/{job.id}/events", headers=headers, timeout=60) as answer:
        assert answer.status_code == 200
        lines = answer.iter_lines()
        next(lines)
        api.store.keys.revoke(key.split("_")[1])
        api.resources.access.callers.forget()
        ended = list(lines)
    assert not [line for line in ended if line.startswith("event: end")]
