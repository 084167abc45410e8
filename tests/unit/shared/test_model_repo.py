from __future__ import annotations

import errno
import json
import os
import shutil
import time
from pathlib import Path

import pytest

from shared.errors import InvalidInput
from shared.model_repo import MANIFEST, DiskFull, ModelRepo, tree_size


@pytest.fixture
def export(tmp_path: Path) -> Path:
    folder = tmp_path / "export"
    (folder / "variables").mkdir(parents=True)
    (folder / "saved_model.pb").write_bytes(b"graph")
    (folder / "variables" / "variables.index").write_bytes(b"index")
    return folder


@pytest.fixture
def repo(tmp_path: Path) -> ModelRepo:
    return ModelRepo(tmp_path / "models")


def test_staging_is_no_version_and_placing_makes_it_one(repo: ModelRepo, export: Path) -> None:
    staged = repo.stage("m", "job_a", 1, export, {"lineage": 1})
    assert repo.versions("m") == []
    assert not staged.name.isdigit()
    assert repo.place("m", staged, "job_a", 1) == 1
    assert repo.versions("m") == [1]
    assert repo.manifest("m", 1) == {"lineage": 1, "job_id": "job_a"}
    assert tree_size(repo.root / "m" / "1") > 10
    assert (export / "saved_model.pb").exists()


def test_numbers_go_above_whatever_is_on_disk(repo: ModelRepo, export: Path) -> None:
    (repo.root / "m" / "7").mkdir(parents=True)
    (repo.root / "m" / "not-a-version").mkdir()
    staged = repo.stage("m", "job_a", 1, export, {})
    assert repo.place("m", staged, "job_a", 3) == 8


def test_leftovers_of_earlier_attempts_are_cleared(repo: ModelRepo, export: Path) -> None:
    first = repo.stage("m", "job_a", 1, export, {})
    repo.stage("m", "job_a", 2, export, {})
    assert not first.exists()


def test_a_full_disk_says_so_and_leaves_nothing(
    repo: ModelRepo, export: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.copy2

    def full(source: os.PathLike[str], target: str, **options: bool) -> object:
        if os.fspath(source).endswith(".index"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), target)
        return real(source, target, **options)

    monkeypatch.setattr(shutil.copytree, "__defaults__", (False, None, full, False, False))
    with pytest.raises(DiskFull, match="no room") as caught:
        repo.stage("m", "job_a", 1, export, {})
    assert "retry" in str(caught.value.hint)
    assert list((repo.root / "m").iterdir()) == []


def test_names_that_leave_the_folder_are_refused(repo: ModelRepo, export: Path) -> None:
    with pytest.raises(InvalidInput):
        repo.stage("../m", "job_a", 1, export, {})


def test_removing_a_version_hides_it_at_once_and_twice_is_harmless(repo: ModelRepo, export: Path) -> None:
    repo.place("m", repo.stage("m", "job_a", 1, export, {}), "job_a", 1)
    repo.remove("m", 1)
    repo.remove("m", 1)
    assert repo.versions("m") == []


def test_a_damaged_manifest_reads_as_empty(repo: ModelRepo) -> None:
    file = repo.root / "m" / "1" / MANIFEST
    file.parent.mkdir(parents=True)
    for text in ("{", json.dumps([1])):
        file.write_text(text)
        assert repo.manifest("m", 1) == {}


def test_ten_thousand_versions_do_not_slow_a_publish_to_a_crawl(repo: ModelRepo, export: Path) -> None:
    folder = repo.root / "m"
    folder.mkdir(parents=True)
    for number in range(1, 10_001):
        (folder / str(number)).mkdir()
    staged = repo.stage("m", "job_a", 1, export, {})
    started = time.monotonic()
    assert repo.place("m", staged, "job_a", 10_001) == 10_001
    assert time.monotonic() - started < 5
