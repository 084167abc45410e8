"""What the platform asks of a model server, whichever it is: new models, labels, AVAILABLE awaited."""

from __future__ import annotations

import pytest

from shared.serving_client import LoadFailed
from tests.contract.serving.conftest import PATIENCE, Served

pytestmark = pytest.mark.tf


def test_a_new_model_is_served_without_a_restart_and_so_is_its_next_version(served: Served) -> None:
    model = served.name()
    for number in (1, 2):
        assert served.publish(model, f"plain-{number}") == number
        assert served.client.wait_available(model, number, timeout=PATIENCE)
        assert served.answer(model, f"/versions/{number}") == number
    assert served.answer(model) == 2
    asked = served.api.post("/predict", json={"model": model, "instances": [[1.0]]})
    assert (asked.status_code, asked.json()["version"]) == (200, 2), asked.text


def test_labels_move_between_versions_that_are_loaded_first(served: Served) -> None:
    model = served.name()
    for number in (1, 2):
        served.publish(model, f"plain-{number}")
        served.client.wait_available(model, number, timeout=PATIENCE)
    for number in (1, 2, 1):
        moved = served.api.put(f"/models/{model}/labels/stable", json={"version": number})
        assert moved.status_code == 200, moved.text
        assert served.client.states(model)[number].state == "AVAILABLE"
        asked = served.api.post("/predict", json={"model": model, "label": "stable", "instances": [[1.0]]})
        assert (asked.status_code, asked.json()["version"]) == (200, number), asked.text
        passed = served.api.post(f"/v1/models/{model}/labels/stable:predict", json={"instances": [[1.0]]})
        assert passed.status_code == 200, passed.text
    back = served.api.post(f"/models/{model}/rollback")
    assert (back.status_code, back.json()["labels"]["stable"]) == (200, 2)


def test_a_version_that_can_not_be_loaded_is_waited_for_and_told(served: Served) -> None:
    model = served.name()
    served.publish(model, "plain-1")
    served.client.wait_available(model, 1, timeout=PATIENCE)
    broken = served.settings.paths.models / model / "2"
    broken.mkdir()
    (broken / "saved_model.pb").write_bytes(b"this is no SavedModel")
    (broken / "variables").mkdir()
    with pytest.raises(LoadFailed):
        served.client.wait_available(model, 2, timeout=20)
    assert served.answer(model) == 1, "the version before goes on"


def test_refusals_keep_their_words(served: Served) -> None:
    model = served.name()
    served.publish(model, "plain-1")
    served.client.wait_available(model, 1, timeout=PATIENCE)
    for body, status in (
        ({"instances": [["x"]]}, 400),
        ({}, 400),
        ({"inputs": [[1.0]], "instances": [1]}, 400),
    ):
        direct = served.rest.post(f"/v1/models/{model}:predict", json=body)
        passed = served.api.post(f"/v1/models/{model}:predict", json=body)
        assert (direct.status_code, passed.status_code) == (status, status)
        assert direct.json()["error"] == passed.json()["error"]
    own = served.api.post("/predict", json={"model": model, "instances": [["x"]]})
    assert (own.status_code, own.json()["code"]) == (400, "predict_invalid"), own.text
    assert served.api.get("/v1/models/nobody").status_code == 404
