"""Builders of the user's own: listed, named by jobs, refused in words; never run in the API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from shared.settings import Settings
from shared.views import BuilderList, JobView
from tests.builders import train_request

TRAP = "raise SystemExit('code of a builder was run where it must not be')\n"
MYNET = (
    TRAP
    + '''
def build_model(units: int, dropout=0.1, *, activation="relu"):
    """A net."""

def make_dataset(params):
    return params["path"], params.get("rows", 10)
'''
)


@pytest.fixture
def code(settings: Settings) -> Path:
    (folder,) = settings.code_dirs
    (folder / "mynet.py").write_text(MYNET)
    package = folder / "packed"
    package.mkdir()
    (package / "__init__.py").write_text(f'"""Packed."""\n{TRAP}from .inner import build as build_model\n')
    (package / "inner.py").write_text("def build(params):\n    return params.get('units', [64, 32])\n")
    return folder


def listed(client: TestClient) -> dict[str, Any]:
    found = BuilderList.model_validate_json(client.get("/builders").content)
    return {item.name: item for item in found.items}


def test_builders_are_described_without_being_run(client: TestClient, code: Path) -> None:
    found = listed(client)
    assert list(found) == ["lenet5", "mlp", "mynet", "packed"]
    assert found["mlp"].build_model.parameters[0].default == [128, 64]
    net = found["mynet"]
    assert (net.source, net.problem, len(net.sha256)) == (f"folder {code}", None, 64)
    assert [(item.name, item.required, item.default) for item in net.build_model.parameters] == [
        ("units", True, None),
        ("dropout", False, 0.1),
        ("activation", False, "relu"),
    ]
    assert net.build_model.doc == "A net."
    assert not net.build_model.open
    assert [(item.name, item.required, item.default) for item in net.make_dataset.parameters] == [
        ("path", True, None),
        ("rows", False, 10),
    ]
    assert found["packed"].doc == "Packed."
    assert found["packed"].build_model.parameters[0].default == [64, 32]


def test_a_job_records_the_hash_of_the_code_it_names(client: TestClient, code: Path) -> None:
    model = {"builder": "mynet", "params": {"units": 3}}
    dataset = {"builder": "mynet", "params": {"path": "x"}}
    answer = client.post("/jobs", json=train_request(model=model, dataset=dataset))
    assert answer.status_code == 202, answer.text
    first = JobView.model_validate_json(answer.content).run["code"]
    assert first == {"mynet": {"sha256": listed(client)["mynet"].sha256, "source": f"folder {code}"}}
    (code / "mynet.py").write_text(MYNET + "# changed\n")
    answer = client.post("/jobs", json=train_request(model=model, dataset=dataset))
    assert JobView.model_validate_json(answer.content).run["code"] != first


@pytest.mark.parametrize(
    ("change", "field", "code_name", "hint"),
    [
        ({"model": {"builder": "mynett"}}, "model.builder", "unknown_builder", "Did you mean mynet?"),
        ({"model": {"builder": "resnet"}}, "model.builder", "unknown_builder", "lenet5"),
        ({"dataset": {"builder": "zzz"}}, "dataset.builder", "unknown_builder", "There are: mynet, packed."),
        ({"dataset": {"builder": "mlp"}}, "dataset.builder", "builder_unusable", None),
        ({"dataset": {"builder": "packed"}}, "dataset.builder", "builder_unusable", "Define make_dataset"),
        ({"model": {"builder": "mynet"}}, "model.params", "invalid_params", None),
        (
            {"model": {"builder": "mynet", "params": {"units": 1, "dropuot": 0}}},
            "model.params.dropuot",
            "invalid_params",
            "Did you mean dropout?",
        ),
        ({"model": {"builder": "../mynet"}}, "model.builder", "invalid_input", None),
    ],
)
def test_what_cant_work_is_refused(
    change: dict[str, Any], field: str, code_name: str, hint: str | None, client: TestClient, code: Path
) -> None:
    answer = client.post("/jobs", json=train_request(**change))
    problem = answer.json()
    assert (answer.status_code, problem["field"], problem["code"]) == (422, field, code_name), problem
    assert (hint or "") in problem.get("hint", "")


@pytest.mark.parametrize(
    ("name", "source", "words"),
    [
        ("lenet5.py", "def build_model(params): ...", "built-in"),
        ("my net.py", "def build_model(params): ...", "can't be used"),
        ("broken.py", "def build_model(params:\n", "broken.py, line 1"),
        ("empty/x.py", "x = 1", "neither a build_model nor a make_dataset"),
        ("deep.py", "def build_model(params): return " + "(" * 5000 + ")" * 5000, "it"),
    ],
)
def test_code_that_cant_be_used_says_why(
    name: str, source: str, words: str, client: TestClient, code: Path
) -> None:
    file = code / name
    file.parent.mkdir(exist_ok=True)
    file.write_text(source)
    problems = [item["problem"] for item in client.get("/builders").json()["items"] if item["problem"]]
    assert len(problems) == 1
    assert words.lower() in problems[0].lower()
