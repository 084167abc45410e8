"""Files of jobs and versions over HTTP: listed, downloaded whole, in part, and as archives; nothing else can be had."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from services.api import artifacts
from shared.settings import Settings
from shared.store import Publication, Report, Store
from shared.views import ArtifactList, Problem
from tests.builders import train_spec
from tests.contract.store.publishing import publish

FILES = {
    "export/saved_model/saved_model.pb": b"graph",
    "export/saved_model/variables/variables.index": b"index",
    "export/saved_model/assets.extra/modelyard/model.keras": b"keras",
    "export/model.onnx": b"onnx" * 1000,
    "checkpoints/00001-00000000.npz": b"arrays",
    "job.log": b"epoch 1\n",
    "export/Größe 1.csv": b"a,b\n",
}


@pytest.fixture
def job_id(store: Store, settings: Settings) -> str:
    job, _ = store.jobs.create(train_spec())
    taken = store.claims.claim(job.id, "w", 60)
    assert taken is not None
    store.claims.report(taken[0], Report(), run_dir="m/run-1")
    root = settings.paths.runs / "m/run-1"
    for name, content in FILES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    (root / ".writing").write_bytes(b"half")
    (root / "checkpoints/.tmp").mkdir()
    (root / "checkpoints/.tmp/x.npz").write_bytes(b"half")
    secret = settings.home / "secret.txt"
    secret.write_text("secret")
    (root / "link.txt").symlink_to(secret)
    (root / "linked").symlink_to(settings.home)
    return job.id


def test_a_jobs_files_are_listed_with_their_format_and_hash(client: TestClient, job_id: str) -> None:
    found = ArtifactList.model_validate_json(client.get(f"/jobs/{job_id}/artifacts").content)
    assert [item.name for item in found.items] == sorted(FILES)
    for item in found.items:
        assert item.sha256 == hashlib.sha256(FILES[item.name]).hexdigest()
        assert item.size_bytes == len(FILES[item.name])
        assert client.get(item.url).content == FILES[item.name]
    kinds = {item.name: item.format for item in found.items}
    assert kinds["export/saved_model/saved_model.pb"] == "saved_model"
    assert kinds["export/saved_model/variables/variables.index"] == "saved_model"
    assert kinds["export/saved_model/assets.extra/modelyard/model.keras"] == "keras"
    assert kinds["export/model.onnx"] == "onnx"
    assert client.get(f"/jobs/{job_id}").json()["links"]["artifacts"] == f"/jobs/{job_id}/artifacts"


@pytest.mark.parametrize("place", ["m/run-1/job.log", "m/run-1", "m"])
def test_a_link_that_a_job_puts_in_place_of_its_files_leads_nowhere(
    client: TestClient, job_id: str, settings: Settings, tmp_path: Path, place: str
) -> None:
    secrets = tmp_path / "secrets"
    (secrets / "run-1" / "checkpoints").mkdir(parents=True)
    for folder in (secrets, secrets / "run-1"):
        (folder / "job.log").write_text("secret")
    target = settings.paths.runs / place
    target.rename(tmp_path / "moved")
    target.symlink_to(
        {"m/run-1/job.log": secrets / "job.log", "m/run-1": secrets / "run-1", "m": secrets}[place]
    )
    for path in (
        "logs", "logs?tail=1", "artifacts", "artifacts/job.log", "artifacts.zip",
        "artifacts.zip?path=job.log", "checkpoints",
    ):  # fmt: skip
        answer = client.get(f"/jobs/{job_id}/{path}")
        assert answer.status_code in (200, 404)
        assert b"secret" not in answer.content
        if answer.headers["content-type"] == "application/zip":
            with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
                assert not any(name.endswith("job.log") for name in archive.namelist())


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_log_that_is_no_file_is_empty(
    client: TestClient, job_id: str, settings: Settings, make: Callable[[Path], None]
) -> None:
    log = settings.paths.runs / "m/run-1/job.log"
    log.unlink()
    make(log)
    for query in ("", "?tail=3"):
        answer = client.get(f"/jobs/{job_id}/logs{query}")
        assert (answer.status_code, answer.content) == (200, b"")


def test_a_version_that_a_job_has_made_a_link_is_gone(
    client: TestClient, store: Store, settings: Settings, tmp_path: Path
) -> None:
    version = publish(store, "m")
    (settings.paths.models / "m").mkdir(parents=True)
    (settings.paths.models / "m" / str(version)).symlink_to(tmp_path)
    assert client.get(f"/models/m/versions/{version}/download").status_code == 404


def test_runs_may_lie_behind_a_link_of_the_operators(
    client: TestClient, job_id: str, settings: Settings, tmp_path: Path
) -> None:
    settings.paths.runs.rename(tmp_path / "elsewhere")
    settings.paths.runs.symlink_to(tmp_path / "elsewhere")
    assert client.get(f"/jobs/{job_id}/logs").content == FILES["job.log"]
    assert client.get(f"/jobs/{job_id}/artifacts/job.log").content == FILES["job.log"]


def test_lists_are_paged_and_may_be_narrowed(client: TestClient, job_id: str) -> None:
    seen: list[str] = []
    while True:
        after = {"after": seen[-1]} if seen else {}
        page = client.get(f"/jobs/{job_id}/artifacts", params={"limit": "3", **after}).json()
        seen += [item["name"] for item in page["items"]]
        if not page["has_more"]:
            break
    assert seen == sorted(FILES)
    below = client.get(f"/jobs/{job_id}/artifacts", params={"path": "export/saved_model"}).json()
    assert len(below["items"]) == 3


def test_a_file_is_had_in_ranges_and_not_twice(client: TestClient, job_id: str) -> None:
    url = f"/jobs/{job_id}/artifacts/export/model.onnx"
    whole = client.get(url)
    etag = whole.headers["etag"]
    assert etag == f'"{hashlib.sha256(FILES["export/model.onnx"]).hexdigest()}"'
    assert whole.headers["content-disposition"] == 'attachment; filename="model.onnx"'
    part = client.get(url, headers={"Range": "bytes=10-19", "If-Range": etag})
    assert (part.status_code, part.content) == (206, FILES["export/model.onnx"][10:20])
    assert client.get(url, headers={"Range": "bytes=999999-"}).status_code == 416
    again = client.get(url, headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    "name",
    [
        "link.txt", "linked/secret.txt", "linked/modelyard.db", "..%2f..%2fsecret.txt", "%2e%2e/%2e%2e/secret.txt",
        ".writing", "checkpoints/.tmp/x.npz", "nothing", "export", "%2fetc%2fpasswd", "a%00b",
        "x" * 5000, "export//model.onnx", "export\\model.onnx",
    ],
)  # fmt: skip
def test_nothing_else_can_be_had(client: TestClient, job_id: str, name: str) -> None:
    answer = client.get(f"/jobs/{job_id}/artifacts/{name}")
    assert answer.status_code == 404, answer.text
    assert Problem.model_validate_json(answer.content).code == "artifact_not_found"


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_all_files_come_as_one_archive(client: TestClient, job_id: str, kind: str) -> None:
    answer = client.get(f"/jobs/{job_id}/artifacts.{kind}")
    assert answer.status_code == 200
    assert f'filename="{job_id}.{kind}"' in answer.headers["content-disposition"]
    assert unpacked(answer.content, kind) == {f"{job_id}/{name}": data for name, data in FILES.items()}
    below = client.get(f"/jobs/{job_id}/artifacts.{kind}", params={"path": "export/saved_model"})
    assert len(unpacked(below.content, kind)) == 3
    assert client.get(f"/jobs/{job_id}/artifacts.{kind}?path=../x").status_code == 404
    assert client.get(f"/jobs/{job_id}/artifacts.rar").status_code == 422


def unpacked(content: bytes, kind: str) -> dict[str, bytes]:
    if kind == "zip":
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            assert archive.testzip() is None
            return {name: archive.read(name) for name in archive.namelist()}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        members = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        return {name: file.read() for name, file in members.items() if file is not None}


def test_a_large_file_is_never_whole_in_memory(tmp_path: Path) -> None:
    with (tmp_path / "large.npz").open("wb") as file:
        file.write(os.urandom(3 * 2**20 + 5))
    for kind in ("zip", "tar.gz"):
        pieces = list(artifacts.archive(artifacts.files_of(tmp_path), kind, "top"))  # type: ignore[arg-type]
        assert max(map(len, pieces)) < 1.1 * 2**20
        found = unpacked(b"".join(pieces), kind)
        assert found == {"top/large.npz": (tmp_path / "large.npz").read_bytes()}


def test_a_job_that_has_not_begun_has_no_files(client: TestClient, store: Store) -> None:
    job, _ = store.jobs.create(train_spec())
    assert client.get(f"/jobs/{job.id}/artifacts").json() == {"items": [], "has_more": False}
    assert client.get(f"/jobs/{job.id}/artifacts.zip").status_code == 404
    assert client.get(f"/jobs/{job.id}/artifacts/job.log").status_code == 404
    assert client.get("/jobs/job_nope/artifacts").status_code == 404


def test_a_version_comes_as_an_archive(client: TestClient, store: Store, settings: Settings) -> None:
    job, _ = store.jobs.create(train_spec(publish={"model": "m"}))
    taken = store.claims.claim(job.id, "w", 60)
    assert taken is not None
    folder = settings.paths.models / "m/1/variables"

    def place(lowest: int) -> int:
        folder.mkdir(parents=True)
        (folder.parent / "saved_model.pb").write_bytes(b"graph")
        (folder / "variables.index").write_bytes(b"index")
        return lowest

    publication = Publication(size_bytes=1, metrics={}, signatures={}, classes=None, lineage={})
    store.models.publish(taken[0], "m", publication, place=place)
    answer = client.get("/models/m/versions/1/download")
    assert unpacked(answer.content, "zip") == {
        "1/saved_model.pb": b"graph",
        "1/variables/variables.index": b"index",
    }
    packed = client.get("/models/m/versions/1/download?archive=tar.gz")
    assert 'filename="m-1.tar.gz"' in packed.headers["content-disposition"]
    assert set(unpacked(packed.content, "tar.gz")) == {"1/saved_model.pb", "1/variables/variables.index"}
    assert client.get("/models/m/versions/2/download").status_code == 404


def test_large_runs_are_hashed_bit_by_bit_and_large_files_are_sent_unread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in "abc":
        (tmp_path / name).write_bytes(b"x" * 100)
    hashes, files = artifacts.Hashes(), artifacts.files_of(tmp_path)

    def known() -> list[bool]:
        return [digest is not None for _, digest in hashes.page(files, budget=150)]

    assert known() == [True, True, False]
    assert known() == [True, True, True]
    files[0].path.unlink()
    assert [item.name for item, _ in hashes.page(files)] == ["b", "c"]
    monkeypatch.setattr(artifacts, "HASHED_ETAG_BYTES", 50)
    first = hashes.etag(files[1])
    assert first == hashes.etag(files[1])
    assert len(first) < 60
    files[1].path.write_bytes(b"y" * 100)
    os.utime(files[1].path, ns=(1, 1))
    assert hashes.etag(artifacts.find(tmp_path, "b")) != first
