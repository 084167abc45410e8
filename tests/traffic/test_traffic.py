"""Labels move, split, shadow and go back while 200 requests a second are answered, and none is lost."""

from __future__ import annotations

import json
import shutil
import time

import numpy as np
import pytest

from services.worker import parity
from services.worker.protocol import Finished
from services.worker.publish import Publisher
from shared.model_repo import ModelRepo
from shared.serving_client import ServingClient
from shared.serving_config import ServingConfig
from tests.builders import train_spec
from tests.traffic.conftest import Platform

pytestmark = pytest.mark.tf


@pytest.fixture(scope="module")
def m(platform: Platform) -> Platform:
    """A model ``m`` with versions 1, 2 and 3, of which only the newest is loaded."""
    for number in (1, 2, 3):
        platform.publish("m", f"plain-{number}")
    platform.wait_for("m", 2, "END")
    return platform


def test_labels_move_and_go_back_without_a_lost_request(m: Platform) -> None:
    m.put("m", "stable", version=1)  # long unloaded: loaded again first
    with m.asked("m", "stable") as calls:
        calls.wait(100, version=1)
        m.put("m", "stable", version=2)
        calls.wait(100, version=2)
        m.put("m", "stable", version=3)
        calls.wait(100, version=3)
        back = m.http.post("/models/m/rollback")
        assert (back.status_code, back.json()["labels"]["stable"]) == (200, 2)
        calls.wait(100, version=2)
        m.wait_for("m", 1, "END")  # only what is released is let go, and only then
        calls.wait(100, version=2)
    assert calls.failures == []
    assert set(calls.answers) == {1, 2, 3}
    assert [event["data"]["why"] for event in m.http.get("/models/m/events").json()["items"]][
        -1
    ] == "rollback"


def test_a_split_keeps_each_caller_on_one_side(m: Platform) -> None:
    m.put("m", "stable", version=2)
    m.put("m", "canary", version=3)
    m.put("m", "live", split={"stable": 60, "canary": 40})
    with m.asked("m", "live") as calls:
        calls.wait(300)
    assert calls.failures == []
    assert all(len(seen) == 1 for seen in calls.by_caller.values()), calls.by_caller
    answers = [
        m.http.post("/predict", json={"model": "m", "label": "live", "instances": [[1.0]]}).json()["version"]
        for _ in range(100)
    ]
    assert 15 <= answers.count(3) <= 65, "without a key, by chance"


def test_a_shadow_is_asked_and_never_heard(m: Platform) -> None:
    m.put("m", "stable", version=2, shadow={"to": 3})
    with m.asked("m", "stable") as calls:
        calls.wait(200)
    assert (calls.failures, set(calls.answers)) == ([], {2})
    counted = 'modelyard_shadow_requests_total{model="m",outcome="different",version="3"}'
    deadline = time.monotonic() + 20
    while counted not in m.http.get("/metrics").text:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("kind", "guard", "reason"),
    [
        ("failing", {"max_error_rate": 0.05, "min_requests": 10}, "requests failed"),
        ("slow", {"max_p95_ms": 50, "min_requests": 8}, "at most 50 ms"),
    ],
)
def test_a_canary_out_of_bounds_is_withdrawn_and_the_event_says_why(
    platform: Platform, kind: str, guard: dict[str, float], reason: str
) -> None:
    model = f"guarded-{kind}"
    platform.publish(model, "plain-1")
    platform.put(model, "stable", version=1)
    version = platform.publish(model, kind)
    platform.put(model, "live", split={"stable": 60, str(version): 40}, guard=guard)
    for _ in range(500):
        platform.http.post("/predict", json={"model": model, "label": "live", "instances": [[1.0]]})
        last = platform.http.get(f"/models/{model}/events").json()["items"][-1]
        if last["type"] == "withdrawn":
            break
    assert (last["type"], last["data"]["target"], last["data"]["label"]) == (
        "withdrawn",
        str(version),
        "live",
    )
    assert reason in last["data"]["reason"]
    assert last["data"]["seen"]["requests"] >= guard["min_requests"]
    with platform.asked(model, "live") as calls:
        calls.wait(100, version=1)
    assert (calls.failures, set(calls.answers)) == ([], {1})


def test_a_model_without_labels_goes_back_by_its_default_until_the_next_publish(platform: Platform) -> None:
    for number in (1, 2):
        platform.publish("plain", f"plain-{number}")
    with platform.asked("plain", None) as calls:
        calls.wait(50, version=2)
        back = platform.http.post("/models/plain/rollback")
        assert (back.status_code, back.json()["default_version"]) == (200, 1)
        calls.wait(100, version=1)
        forth = platform.http.post("/models/plain/rollback", json={"version": 2})
        assert (forth.status_code, forth.json()["default_version"]) == (200, None)
        calls.wait(100, version=2)
    assert calls.failures == []
    nothing = platform.http.post("/models/plain/rollback", json={"label": "stable"})
    assert (nothing.status_code, nothing.json()["code"]) == (404, "label_not_found")


def test_a_version_that_can_not_be_loaded_moves_nothing(platform: Platform) -> None:
    for number in (1, 2):
        platform.publish("broken", f"plain-{number}")
    platform.put("broken", "stable", version=2)
    platform.wait_for("broken", 1, "END")
    (platform.home / "models" / "broken" / "1" / "saved_model.pb").write_bytes(b"not a model")
    with platform.asked("broken", "stable") as calls:
        calls.wait(20)
        answer = platform.http.put("/models/broken/labels/stable", json={"version": 1})
        assert (answer.status_code, answer.json()["code"]) == (409, "version_not_available")
        calls.wait(20)
    assert (calls.failures, set(calls.answers)) == ([], {2})
    assert platform.http.get("/models/broken").json()["labels"] == {"stable": 2}


def test_a_version_that_answers_otherwise_than_training_is_taken_away(
    platform: Platform, request: pytest.FixtureRequest
) -> None:
    serving = ServingClient(platform.serving_url)
    request.addfinalizer(serving.close)
    publisher = Publisher(
        platform.store,
        ModelRepo(platform.home / "models"),
        serving,
        ServingConfig(platform.store, platform.home / "models", all_models=True),
        timeout_seconds=60,
    )

    def publish(kind: str, answer: float) -> int:
        export = platform.home / f"export-{kind}-{answer}"
        shutil.copytree(platform.exports / kind, export)
        beside = export / parity.FOLDER
        beside.mkdir(parents=True)
        notes = {"signature": "serving_default", "input": "x", "output": "y", "tolerance": 1e-5}
        (beside / "golden.json").write_text(json.dumps(notes))
        rows = np.ones((20, 1), np.float32)
        np.savez(beside / "golden.npz", rows=rows, targets=rows, answers=rows * answer)
        job, _ = platform.store.jobs.create(train_spec(publish={"model": "gated", "label": "stable"}))
        taken = platform.store.claims.claim(job.id, "w", 60)
        assert taken is not None
        finished = Finished(metrics={}, epochs=1, steps=1)
        version = publisher.publish(taken[0], taken[1], "gated", export, finished, {})
        publisher.prove(taken[1], "gated", version, lambda: True)
        return version

    assert publish("plain-1", 1.0) == 1
    assert platform.http.get("/models/gated").json()["labels"] == {"stable": 1}
    with platform.asked("gated", "stable") as calls:
        with pytest.raises(parity.ParityMismatch, match="20 rows"):
            publish("plain-2", 1.5)
        calls.wait(50)
    assert (calls.failures, set(calls.answers)) == ([], {1})
    assert platform.http.get("/models/gated").json()["latest_version"] == 1
    assert not (platform.home / "models" / "gated" / "2").exists()
    assert publish("plain-3", 3.0) == 3, "numbers are not used again"
    assert platform.http.get("/models/gated").json()["labels"] == {"stable": 3}
