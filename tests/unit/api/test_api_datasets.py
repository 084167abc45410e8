"""Uploads over HTTP, and what submission makes of them."""

from __future__ import annotations

import hashlib
import io
import os
import time
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient

from services.api.resources import Resources
from shared.settings import Settings
from shared.views import DatasetList, DatasetView, Problem
from tests.builders import train_request

CSV = b"a,b,species\n" + b"".join(b"%d,%d.5,%s\n" % (n, n, b"xyz"[n % 3 : n % 3 + 1]) for n in range(150))


_CSV_TYPE = {"Content-Type": "text/csv"}
_FORM_TYPE = {"Content-Type": "multipart/form-data; boundary=x"}
_CUT_SHORT = b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\na,b\n1,2\n'


def _npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _upload(client: TestClient, content: bytes, name: str = "data") -> DatasetView:
    answer = client.post(
        "/datasets", params={"name": name}, content=content, headers={"Content-Type": "text/csv"}
    )
    assert answer.status_code in (200, 201), answer.text
    return DatasetView.model_validate_json(answer.content)


def _left_behind(settings: Settings) -> list[str]:
    return [str(path.relative_to(settings.paths.datasets)) for path in settings.paths.datasets.rglob("*")]


def test_a_file_is_kept_once_whatever_way_it_came(client: TestClient, settings: Settings) -> None:
    ways: list[dict[str, Any]] = [
        {"params": {"name": "plants"}, "content": CSV, "headers": {"Content-Type": "text/csv; charset=utf-8"}},
        {"params": {"name": "b"}, "content": CSV, "headers": {"Content-Type": "application/octet-stream"}},
        {"files": {"file": ("plants.csv", CSV)}},
        {"files": {"file": ("plants.csv", CSV)}, "data": {"name": "other", "more": "x"}},
        {"params": {"name": "c"}, "content": (CSV[n : n + 100] for n in range(0, len(CSV), 100)),
         "headers": {"Content-Type": "text/csv"}},
    ]  # fmt: skip
    answers = [client.post("/datasets", **way) for way in ways]
    assert [answer.status_code for answer in answers] == [201, 200, 200, 200, 200]
    first = DatasetView.model_validate_json(answers[0].content)
    assert {answer.json()["id"] for answer in answers} == {first.id}
    assert (first.name, first.kind, first.size_bytes) == ("plants", "csv", len(CSV))
    assert first.sha256 == hashlib.sha256(CSV).hexdigest()
    assert first.info["rows"] == 150
    assert len(first.info["preview"]) == 5
    assert answers[0].headers["location"] == f"/datasets/{first.id}"
    assert (settings.paths.datasets / first.id / "data.csv").read_bytes() == CSV
    assert sorted(_left_behind(settings)) == [first.id, f"{first.id}/data.csv"]
    assert DatasetView.model_validate_json(client.get(f"/datasets/{first.id}").content) == first
    assert DatasetList.model_validate_json(client.get("/datasets").content).items == [first]


def test_the_kind_is_told_by_the_content(client: TestClient) -> None:
    content = _npz(x_train=np.zeros((9, 2)), y_train=np.zeros(9, int))
    answer = client.post("/datasets", files={"file": ("data.csv", content, "text/csv")})
    view = DatasetView.model_validate_json(answer.content)
    assert (view.kind, view.name) == ("npz", "data.csv")
    assert view.info["arrays"][0] == {
        "name": "x_train",
        "shape": [9, 2],
        "dtype": "float64",
        "first": [0.0] * 8,
    }


@pytest.mark.parametrize(
    ("request_", "status", "code"),
    [
        ({"content": b"a,b\n1\n", "headers": {"Content-Type": "text/csv"}}, 422, "data_invalid"),
        ({"content": b"", "headers": {"Content-Type": "text/csv"}}, 400, "malformed_body"),
        ({"content": CSV, "headers": {"Content-Type": "text/html"}}, 415, "unsupported_media_type"),
        ({"content": CSV}, 415, "unsupported_media_type"),
        ({"files": {"data": ("x.csv", CSV)}}, 400, "malformed_body"),
        ({"files": {"file": ("x.csv", b"")}}, 422, "data_invalid"),
        ({"files": [("file", ("x.csv", CSV)), ("file", ("y.csv", CSV))]}, 400, "malformed_body"),
        ({"content": b"junk", "headers": {"Content-Type": "multipart/form-data; boundary=x"}}, 400, "malformed_body"),
        ({"content": b"junk", "headers": {"Content-Type": "multipart/form-data"}}, 400, "malformed_body"),
        ({"content": b"--x\r\n", "headers": _FORM_TYPE}, 400, "malformed_body"),
        ({"content": _CUT_SHORT, "headers": _FORM_TYPE}, 400, "malformed_body"),
        ({"content": CSV, "headers": {"Content-Type": _FORM_TYPE["Content-Type"] + "x" * 999}}, 400, "malformed_body"),
        ({"content": CSV, "headers": {"Content-Type": "text/csv"}, "params": {"name": "a\nb"}}, 422, "invalid_input"),
        ({"content": CSV, "headers": _CSV_TYPE, "params": {"name": "x" * 300}}, 422, "invalid_input"),
        ({"files": {"file": ("x" * 300, CSV)}}, 422, "invalid_input"),
        ({"content": bytes(2**20 + 1), "headers": {"Content-Type": "text/csv"}}, 413, "too_large"),
        ({"content": (bytes(65536) for _ in range(20)), "headers": {"Content-Type": "text/csv"}}, 413, "too_large"),
        ({"files": {"file": ("x.csv", bytes(2**20 + 1))}}, 413, "too_large"),
    ],
)  # fmt: skip
def test_refused_uploads_leave_nothing_behind(
    client: TestClient, settings: Settings, request_: dict[str, Any], status: int, code: str
) -> None:
    answer = client.post("/datasets", **request_)
    assert (answer.status_code, answer.json()["code"]) == (status, code), answer.text
    assert _left_behind(settings) == []
    assert client.get("/datasets").json()["items"] == []


def test_a_full_disk_is_said_so(
    client: TestClient, resources: Resources, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    answer = client.post("/datasets", files={"file": ("x.csv", CSV)})
    assert (answer.status_code, answer.json()["code"]) == (507, "disk_full")
    assert _left_behind(settings) == []


def test_large_files_are_read_by_a_process_of_its_own(
    client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.api.uploads.READ_APART_BYTES", 10)
    assert _upload(client, CSV).info["rows"] == 150
    answer = client.post("/datasets", files={"file": ("x.csv", b"a,b\n1,2\n1,2,3\n")})
    problem = Problem.model_validate_json(answer.content)
    assert (problem.status, problem.code, problem.field) == (422, "data_invalid", "file")
    assert "Line 3" in problem.detail


def test_deleting_waits_for_the_jobs_that_use_it(client: TestClient, settings: Settings) -> None:
    dataset = _upload(client, CSV)
    job = client.post("/jobs", json=train_request(dataset={"csv": dataset.id, "label": "species"})).json()
    busy = client.delete(f"/datasets/{dataset.id}")
    assert (busy.status_code, busy.json()["code"]) == (409, "dataset_in_use")
    assert job["id"] in busy.json()["detail"]
    client.post(f"/jobs/{job['id']}/cancel")
    gone = client.delete(f"/datasets/{dataset.id}")
    assert (gone.status_code, gone.content) == (204, b"")
    assert _left_behind(settings) == []
    assert client.delete(f"/datasets/{dataset.id}").status_code == 404
    assert client.get(f"/datasets/{dataset.id}").status_code == 404
    assert _upload(client, CSV).id != dataset.id


def test_a_dataset_whose_file_vanished_can_be_uploaded_again(client: TestClient, settings: Settings) -> None:
    first = _upload(client, CSV)
    (settings.paths.datasets / first.id / "data.csv").unlink()
    assert _upload(client, CSV).id != first.id


# --- what submission checks ---------------------------------------------------------------------------------------


@pytest.fixture
def csv_id(client: TestClient) -> str:
    return _upload(client, CSV).id


@pytest.mark.parametrize(
    ("dataset", "field", "code"),
    [
        ({"csv": "ds_" + "0" * 22, "label": "species"}, "dataset.csv", "dataset_not_found"),
        ({"npz": "CSV"}, "dataset.npz", "dataset_kind"),
        ({"csv": "CSV", "label": "kind"}, "dataset.label", "column_not_found"),
        ({"csv": "CSV", "label": "species", "features": ["a", "c"]}, "dataset.features.1", "column_not_found"),
        ({"csv": "CSV", "label": "b", "features": ["a", "b"]}, "dataset.features.1", "invalid_input"),
        ({"csv": "CSV", "label": "a", "columns": {"species": {"type": "numeric"}}}, "dataset.features",
         "feature_not_numeric"),
        ({"csv": "CSV", "label": "a", "columns": {"c": {}}}, "dataset.columns.c", "column_not_found"),
        ({"images": "CSV"}, "dataset.images", "dataset_kind"),
        ({"images": "/etc"}, "dataset.images", "path_not_allowed"),
        ({"images": "ALLOWED/no"}, "dataset.images", "data_missing"),
        ({"tfrecord": "ALLOWED/*.tfrecord", "features": {"x": {"dtype": "float32"}, "label": {"dtype": "int64"}}},
         "dataset.tfrecord", "data_missing"),
        ({"tfrecord": "/etc/*", "features": {"x": {"dtype": "float32"}, "label": {"dtype": "int64"}}},
         "dataset.tfrecord", "path_not_allowed"),
        ({"csv": "CSV", "label": "species", "delimiter": ";"}, "dataset.delimiter", "invalid_input"),
        ({"csv": "/etc/passwd", "label": "x"}, "dataset.csv", "path_not_allowed"),
        ({"csv": "ALLOWED/../../../etc/passwd", "label": "x"}, "dataset.csv", "path_not_allowed"),
        ({"csv": "ALLOWED/link", "label": "x"}, "dataset.csv", "path_not_allowed"),
        ({"csv": "ALLOWED/no.csv", "label": "x"}, "dataset.csv", "data_missing"),
        ({"csv": "ALLOWED", "label": "x"}, "dataset.csv", "data_missing"),
        ({"csv": "ALLOWED/" + "x" * 300, "label": "x"}, "dataset.csv", "file_unreadable"),
        ({"csv": "~nobody-has-this-name/x", "label": "x"}, "dataset.csv", "file_unreadable"),
        ({"csv": "ALLOWED/loop", "label": "x"}, "dataset.csv", "file_unreadable"),
        ({"csv": "ALLOWED/good.csv", "label": "x"}, "dataset.label", "column_not_found"),
        ({"npz": "ALLOWED/good.csv"}, "dataset.npz", "data_invalid"),
    ],
)  # fmt: skip
def test_data_that_does_not_fit_is_refused_at_submission(
    client: TestClient, settings: Settings, csv_id: str, dataset: dict[str, Any], field: str, code: str
) -> None:
    (allowed,) = settings.allowed_paths
    (allowed / "good.csv").write_bytes(CSV)
    (allowed / "link").symlink_to("/etc/passwd")
    (allowed / "loop").symlink_to(allowed / "loop")
    named = {
        key: value.replace("CSV", csv_id).replace("ALLOWED", str(allowed))
        if isinstance(value, str)
        else value
        for key, value in dataset.items()
    }
    for query in ("", "?dry_run=true"):
        answer = client.post(f"/jobs{query}", json=train_request(dataset=named))
        assert answer.status_code == 422, answer.text
        problem = Problem.model_validate_json(answer.content)
        assert (problem.field, problem.code) == (field, code), problem
    if code == "path_not_allowed":
        assert "MODELYARD_ALLOWED_PATHS" in (problem.hint or "")
        assert "--allow-path" in (problem.hint or "")


@pytest.mark.parametrize(
    ("rows", "dataset", "field"),
    [
        (b"1,2,x\n1,,y\n", {"label": "c"}, "dataset.features"),
        (b"1,2,x\n1,nan,y\n", {"label": "c"}, "dataset.features"),
        (b"1,inf,x\n1,2,y\n", {"label": "c"}, "dataset.features"),
        (b"1,2,x\n1,2, \n", {"label": "c"}, "dataset.label"),
        (b"1,,x\n1,,y\n", {"label": "c", "features": ["b"]}, "dataset.features"),
        (b"1,,x\n1,,y\n", {"label": "b", "features": ["a"]}, "dataset.label"),
    ],
)
def test_gaps_in_the_columns_used_are_refused_at_submission(
    client: TestClient, rows: bytes, dataset: dict[str, Any], field: str
) -> None:
    named = {"csv": _upload(client, b"a,b,c\n" + rows).id, **dataset}
    answer = client.post("/jobs", json=train_request(dataset=named, fit={"batch_size": 1}))
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (
        422,
        "values_missing",
        field,
    )
    named = {**named, "label": "c" if b",x\n1,2, " not in rows else "b", "features": ["a"]}
    assert client.post("/jobs", json=train_request(dataset=named, fit={"batch_size": 1})).status_code == 202


def test_a_file_with_a_header_alone_has_no_rows(client: TestClient) -> None:
    named = {"csv": _upload(client, b"a,b,c\n").id, "label": "c"}
    answer = client.post("/jobs", json=train_request(dataset=named))
    assert (answer.status_code, answer.json()["code"], answer.json()["field"]) == (
        422,
        "dataset_empty",
        "dataset.csv",
    )


def test_data_that_fits_is_accepted(client: TestClient, settings: Settings, csv_id: str) -> None:
    (allowed,) = settings.allowed_paths
    (allowed / "good.csv").write_bytes(CSV)
    (allowed / "inside").symlink_to(allowed / "good.csv")
    npz = _upload(client, _npz(x=np.zeros((200, 2)), y=np.zeros(200, int)))
    for dataset in (
        {"csv": csv_id, "label": "species"},
        {"csv": csv_id, "label": "b", "features": ["a"]},
        {"csv": str(allowed / "good.csv"), "label": "species"},
        {"csv": str(allowed / "inside"), "label": "species"},
        {"npz": npz.id},
        {"npz": npz.id, "x": "x", "y": "y"},
    ):
        assert client.post("/jobs", json=train_request(dataset=dataset)).status_code == 202, dataset


def test_a_plan_describes_the_data(client: TestClient, csv_id: str) -> None:
    body = train_request(dataset={"csv": csv_id, "label": "species"})
    plan = client.post("/jobs?dry_run=true", json=body).json()
    assert plan["dataset"]["rows"] == 150
    assert plan["dataset"]["sha256"] == hashlib.sha256(CSV).hexdigest()


@pytest.mark.parametrize(
    ("arrays", "change", "field", "code"),
    [
        ({"x_train": (5, 2), "y_train": (5,)}, {}, "fit.batch_size", "batch_too_large"),
        ({"x_train": (0, 2), "y_train": (0,)}, {}, "dataset.npz", "dataset_empty"),
        ({"x_train": (200, 2), "y_train": (100,)}, {}, "dataset.y", "rows_differ"),
        ({"x_train": (200, 2)}, {}, "dataset.y", "array_not_found"),
        ({"a": (200, 2), "b": (200,)}, {}, "dataset.x", "array_not_found"),
        ({"a": (200, 2), "b": (200,)}, {"x": "a", "y": "c"}, "dataset.y", "array_not_found"),
        ({"x_train": (), "y_train": (200,)}, {}, "dataset.x", "rows_differ"),
        ({"x_train": (2, 2), "y_train": ()}, {}, "dataset.y", "rows_differ"),
    ],
)
def test_arrays_must_fit(
    client: TestClient, arrays: dict[str, tuple[int, ...]], change: dict[str, str], field: str, code: str
) -> None:
    dataset = _upload(client, _npz(**{name: np.zeros(shape) for name, shape in arrays.items()}))
    answer = client.post("/jobs", json=train_request(dataset={"npz": dataset.id, **change}))
    assert (answer.status_code, answer.json()["field"], answer.json()["code"]) == (422, field, code), (
        answer.text
    )


def test_leftovers_of_a_killed_process_are_removed_at_the_start(settings: Settings) -> None:
    from services.api.app import create_app

    settings.paths.create()
    for name, age in (("old", 7200), ("arriving", 0)):  # another process may be receiving one just now
        path = settings.paths.datasets / f".upload-{name}"
        path.write_bytes(b"half a file")
        os.utime(path, (time.time() - age,) * 2)
    with TestClient(create_app(settings)):
        assert _left_behind(settings) == [".upload-arriving"]
