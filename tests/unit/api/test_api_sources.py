"""What submission says about the model that a job exports or goes on from."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from shared.jobs import JobState
from shared.settings import Settings
from shared.specs import parse_job
from shared.store import Publication, Report, Store
from shared.views import PlanView, Problem
from tests.builders import train_request, train_spec

_BYTES = {"Content-Type": "application/octet-stream"}
FACTS = {
    "format": 1, "task": "classification", "classes": ["a", "b"], "outputs": 2, "outputs_were_logits": False,
    "input": {"kind": "tabular", "shape": [3], "dtype": "float32", "columns": None, "largest_value": None}, "data": {},
}  # fmt: skip


def keep(folder: Path, *, model: bool = True) -> None:
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(FACTS))
    (folder / "architecture.json").write_text("{}")
    if model:
        (folder / "model.keras").write_bytes(b"x")


def ended(store: Store, settings: Settings, state: JobState, *, model: bool = True) -> str:
    """A train job with a run of its own that ended in ``state``."""
    job, _ = store.jobs.create(train_spec(), run={"code": {"mynet": {"sha256": "0" * 64}}})
    taken = store.claims.claim(job.id, "w", 60)
    assert taken is not None
    store.claims.report(taken[0], Report(), run_dir=f"m/{job.id}")
    keep(settings.paths.runs / "m" / job.id / "kept", model=model)
    store.claims.finish(taken[0], state)
    return job.id


def refused(client: TestClient, body: dict[str, Any]) -> Problem:
    answer = client.post("/jobs", json=body)
    assert answer.status_code == 422, answer.text
    return Problem.model_validate_json(answer.content)


def export(source: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"kind": "export", "from": source, **more}


def test_a_finished_job_is_exported_with_the_code_that_it_was_made_with(
    client: TestClient, store: Store, settings: Settings
) -> None:
    job_id = ended(store, settings, JobState.SUCCEEDED)
    body = export({"job": job_id}, formats=["keras", "onnx"])
    plan = PlanView.model_validate_json(client.post("/jobs?dry_run=1", json=body).content)
    assert plan.source == {"job_id": job_id}
    assert plan.epochs is None
    accepted = client.post("/jobs", json=body).json()
    assert accepted["kind"] == "export"
    assert accepted["run"]["code"] == {"mynet": {"sha256": "0" * 64}}
    assert [item["id"] for item in client.get("/jobs?kind=export").json()["items"]] == [accepted["id"]]
    tuned = train_request(model={"from_job": {"job": job_id}, "freeze": ["d1"]})
    assert client.post("/jobs", json=tuned).json()["run"]["code"] == {"mynet": {"sha256": "0" * 64}}
    assert parse_job(accepted["spec"]) == parse_job(body)


def test_a_job_that_failed_has_only_its_checkpoints(
    client: TestClient, store: Store, settings: Settings
) -> None:
    job_id = ended(store, settings, JobState.FAILED, model=False)
    problem = refused(client, export({"job": job_id}))
    assert (problem.code, problem.field) == ("source_not_finished", "from.job")
    assert "checkpoint" in (problem.hint or "")
    assert client.post("/jobs", json=export({"job": job_id, "checkpoint": "last"})).status_code == 202


def test_sources_that_can_not_be(client: TestClient, store: Store, settings: Settings) -> None:
    unknown = "job_" + "0" * 22
    assert refused(client, export({"job": unknown})).field == "from.job"
    assert refused(client, train_request(model={"from_job": {"job": unknown}})).field == "model.from_job.job"
    assert refused(client, export({"model": "m", "version": 1})).code == "version_not_found"
    waiting, _ = store.jobs.create(train_spec())
    assert refused(client, export({"job": waiting.id, "checkpoint": "last"})).code == "source_not_finished"
    done = ended(store, settings, JobState.SUCCEEDED)
    exported = client.post("/jobs", json=export({"job": done})).json()["id"]
    assert refused(client, export({"job": exported})).code == "source_not_trained"
    problem = refused(client, export({"job": done}, signatures=["serving_default", "pixels"]))
    assert (problem.code, problem.field) == ("signature_not_possible", "signatures.1")
    assert "classify" in (problem.hint or "")
    (settings.paths.runs / "m" / done / "kept/model.keras").unlink()
    assert refused(client, export({"job": done})).code == "source_files_missing"


def test_a_version_is_a_source_by_what_lies_beside_it(
    client: TestClient, store: Store, settings: Settings
) -> None:
    job, _ = store.jobs.create(train_spec(publish={"model": "m"}))
    taken = store.claims.claim(job.id, "w", 60)
    assert taken is not None
    publication = Publication(size_bytes=1, metrics={}, signatures={}, classes=None, lineage={})
    store.models.publish(taken[0], "m", publication, place=lambda lowest: lowest)
    assert refused(client, export({"model": "m", "version": 1})).code == "source_files_missing"
    keep(settings.paths.models / "m/1/assets.extra/modelyard")
    assert client.post("/jobs", json=export({"model": "m", "version": 1})).status_code == 202
    tuned = train_request(model={"from_version": {"model": "m", "version": 1}, "new_head": True})
    assert client.post("/jobs", json=tuned).status_code == 202


@pytest.mark.parametrize(
    ("name", "options", "code", "field"),
    [
        ("../outside.keras", {}, "path_not_allowed", "model.from_file"),
        ("nothing.keras", {}, "data_missing", "model.from_file"),
        ("notes.txt", {}, "model_file_kind", "model.from_file"),
        ("folder", {}, "model_file_kind", "model.from_file"),
        ("saved_model", {"architecture": {"builder": "mlp"}}, "saved_model_not_trusted", "model.from_file"),
        ("w.weights.h5", {}, "architecture_missing", "model.architecture"),
        ("m.keras", {"architecture": {"builder": "mlp"}}, "invalid_input", "model.architecture"),
        ("m.h5", {"keep_optimizer": True}, "no_optimizer_state", "model.keep_optimizer"),
        ("m.keras", {"keep_optimizer": True, "new_head": True}, "invalid_input", "model.keep_optimizer"),
    ],
)
def test_files_that_can_not_be_gone_on_from(
    client: TestClient, settings: Settings, name: str, options: dict[str, Any], code: str, field: str
) -> None:
    (allowed,) = settings.allowed_paths
    for file in ("notes.txt", "w.weights.h5", "m.keras", "m.h5", "saved_model/saved_model.pb", "folder/x"):
        (allowed / file).parent.mkdir(exist_ok=True)
        (allowed / file).write_bytes(b"x")
    problem = refused(client, train_request(model={"from_file": str(allowed / name), **options}))
    assert (problem.code, problem.field) == (code, field)


def test_a_model_is_uploaded_and_named_by_its_id(client: TestClient) -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(
            "config.json",
            json.dumps({"class_name": "Functional", "config": {"name": "net", "layers": [1, 2]}}),
        )
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("model.weights.h5", b"weights")
    keras = client.post("/datasets?name=net", content=buffer.getvalue(), headers=_BYTES).json()
    assert keras["kind"] == "keras"
    assert keras["info"] == {"name": "net", "class": "Functional", "layers": 2, "keras_version": "3.15.1"}
    body = train_request(model={"from_file": keras["id"]})
    assert client.post("/jobs", json=body).status_code == 202
    assert client.delete(f"/datasets/{keras['id']}").json()["code"] == "dataset_in_use"
    weights = client.post(
        "/datasets?name=w", content=b"\x89HDF\r\n\x1a\n" + bytes(100), headers=_BYTES
    ).json()
    assert weights["kind"] == "weights"
    problem = refused(client, train_request(model={"from_file": weights["id"]}))
    assert problem.code == "architecture_missing"
    whole = client.post(
        "/datasets?name=h", content=b"\x89HDF\r\n\x1a\n" + b"..model_config..", headers=_BYTES
    ).json()
    assert whole["kind"] == "h5"
    table = client.post("/datasets?name=t", content=b"a,b\n1,2\n", headers=_BYTES).json()
    assert refused(client, train_request(model={"from_file": table["id"]})).code == "model_file_kind"
