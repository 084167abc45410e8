"""Metrics and request log of a real server."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from conftest import Server

pytestmark = pytest.mark.tf


def samples(server: Server) -> dict[str, list[tuple[dict[str, str], float]]]:
    found: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(server.client.get("/monitoring/prometheus/metrics").text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def test_requests_loads_and_warm_ups_are_measured(server: Server) -> None:
    server.wait_for("good", 1)
    server.wait_for("garbage", 1, "END")
    body = {"signature_name": "regress", "examples": [{"x": 1.0}, {"x": 3.0}]}
    answer = server.client.post(
        "/v1/models/good:regress", json=body, headers={"x-request-id": "from-the-client"}
    )
    assert answer.json() == {"results": [2.0, 6.0]}
    found = samples(server)
    labels = {"model_name": "good", "API": "regress", "entrypoint": "REST"}
    assert (labels, 1) in found[":tensorflow:serving:request_latency_count"]
    runtime = {"model_name": "good", "API": "Regress", "runtime": "TF1"}
    assert (runtime, 1) in found[":tensorflow:serving:runtime_latency_count"]
    assert ({"model": "good"}, 2) in found[":tensorflow:serving:request_example_count_total"]
    which = {"model": "good", "version": "1", "signature": "regress"}
    assert (which, 1) in found["modelyard_serving_graph_seconds_count"]
    by_path = {
        (labels["model_path"].split("/")[-2], labels["status"]): count
        for labels, count in found[
            ":tensorflow:cc:saved_model:load_attempt_count_total"
        ]  # the parser adds "_total"
    }
    assert (by_path["good", "success"], by_path["garbage", "fail"]) == (1, 1)
    warm_ups = {labels["status"] for labels, _ in found[":tensorflow:serving:model_warmup_latency_count"]}
    assert {"OK", "DATA_LOSS"} <= warm_ups
    assert server.request_log is not None
    entries = [json.loads(line) for line in server.request_log.read_text().splitlines()]
    (entry,) = [entry for entry in entries if entry["request_id"] == "from-the-client"]
    assert (entry["api"], entry["model"], entry["version"], entry["signature"], entry["status"]) == (
        "regress", "good", 1, "regress", "OK",
    )  # fmt: skip


def test_what_has_no_model_and_what_is_no_inference_counts_too(server: Server) -> None:
    server.client.get("/v1/models/half_plus_two")
    server.client.get("/v1/nothing")
    found = samples(server)
    counts = {
        (labels["model_name"], labels["status"])
        for labels, _ in found[":tensorflow:serving:request_count_total"]
    }
    assert {("half_plus_two", "OK"), ("", "INVALID_ARGUMENT")} <= counts
    timed = [labels for labels, _ in found[":tensorflow:serving:request_latency_count"]]
    assert {"model_name": "half_plus_two", "API": "", "entrypoint": "REST"} in timed
