"""The API's description: up to date, complete, and true of what is really answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from services.api.app import create_app
from shared.settings import Settings
from shared.specs import parse_job
from shared.views import PredictRequest

DESCRIPTION = Path(__file__).parents[2] / "docs" / "openapi.json"
OPERATIONS = {
    "cancelJob", "deleteDataset", "deleteLabel", "deleteVersion", "getDataset", "getJob", "getJobLog",
    "getJobMetrics", "getLiveness", "getModel", "getPrometheusMetrics", "getReadiness", "getVersion", "listDatasets",
    "listJobEvents", "listJobs", "listModels", "listVersions", "listWorkers", "predict", "retryJob", "setLabel",
    "submitJob", "uploadDataset",
    "getStudy", "listTrials", "getImportance", "getStudyHistory", "getParallelCoordinates",
}  # fmt: skip


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return create_app(Settings(home=tmp_path_factory.mktemp("home"))).openapi()


def _operations(described: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for methods in described["paths"].values() for operation in methods.values()]


def test_the_file_is_up_to_date(described: dict[str, Any]) -> None:
    assert json.loads(DESCRIPTION.read_text()) == described, (
        "run: python -m services.api openapi > docs/openapi.json"
    )


def test_operations_keep_their_names(described: dict[str, Any]) -> None:
    names = [operation["operationId"] for operation in _operations(described)]
    assert len(names) == len(set(names))
    assert set(names) >= OPERATIONS, "clients are generated from these names"


def test_every_operation_is_described(described: dict[str, Any]) -> None:
    tags = {tag["name"] for tag in described["tags"]}
    for operation in _operations(described):
        assert operation["summary"], operation
        assert operation["description"], operation
        assert set(operation["tags"]) <= tags
        assert "default" in operation["responses"]
        for status, answer in operation["responses"].items():
            assert answer["description"]
            if status.isdecimal() and int(status) >= 400 and operation["operationId"] != "getReadiness":
                assert list(answer["content"]) == ["application/problem+json"], (
                    operation["operationId"],
                    status,
                )


def test_every_reference_leads_somewhere(described: dict[str, Any]) -> None:
    pending: list[Any] = [described]
    seen = 0
    while pending:
        node = pending.pop()
        if isinstance(node, dict):
            if isinstance(node.get("$ref"), str):
                seen += 1
                place: Any = described
                for step in node["$ref"].removeprefix("#/").split("/"):
                    place = place[step]
            pending.extend(node.values())
        elif isinstance(node, list):
            pending.extend(node)
    assert seen > 50


def test_examples_are_valid(described: dict[str, Any]) -> None:
    def examples(path: str) -> list[Any]:
        body = described["paths"][path]["post"]["requestBody"]["content"]["application/json"]
        return [example["value"] for example in body["examples"].values()]

    for example in examples("/jobs"):
        parse_job(example)
    for example in examples("/predict"):
        PredictRequest.model_validate(example)
