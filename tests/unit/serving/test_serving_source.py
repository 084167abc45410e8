"""Folders to wanted versions."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.serving.config import AllVersions, Latest, ModelConfig, Specific
from services.serving.integrity import fingerprint, missing_part
from services.serving.source import ModelsFolder, VersionSource, choose

ALL = {1: "/1", 2: "/2", 10: "/10"}


def wanted(base: Path, policy: Latest | AllVersions | Specific | None = None) -> dict[int, str]:
    return VersionSource().poll({"m": ModelConfig("m", str(base), policy or AllVersions())})["m"]


def age(path: Path, seconds: float = 60) -> None:
    """Make a folder look unchanged for a while."""
    os.utime(path, (time.time() - seconds,) * 2)


def test_policies_choose() -> None:
    assert choose(ALL, Latest()) == {10: "/10"}
    assert choose(ALL, Latest(2)) == {2: "/2", 10: "/10"}
    assert choose(ALL, AllVersions()) == ALL
    assert choose(ALL, Specific(frozenset({2, 3}))) == {2: "/2"}
    assert choose({}, Latest()) == {}


def test_versions_are_names_that_are_whole_numbers_even_of_files(tmp_path: Path) -> None:
    for name in ("1", "00000123", "tmp-2", "1.5", "v2", ".3", "-v", "٣", "9" * 30):
        (tmp_path / name).mkdir()
    (tmp_path / "5").write_text("a file counts, and fails to load")
    assert wanted(tmp_path) == {
        1: str(tmp_path / "1"),
        5: str(tmp_path / "5"),
        123: str(tmp_path / "00000123"),
    }


def test_of_two_names_of_one_number_the_later_wins(tmp_path: Path) -> None:
    (tmp_path / "001").mkdir()
    (tmp_path / "1").mkdir()
    assert wanted(tmp_path) == {1: str(tmp_path / "1")}


def test_a_missing_base_path_leaves_its_own_model_out_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "there" / "1").mkdir(parents=True)
    source = VersionSource()
    models = {name: ModelConfig(name, str(tmp_path / name)) for name in ("there", "gone")}
    for _ in range(3):
        assert source.poll(models) == {"there": {1: str(tmp_path / "there" / "1")}}
    assert len(caplog.records) == 1  # said once, not at each poll


def test_changes_are_seen_at_the_next_poll(tmp_path: Path) -> None:
    source, models = VersionSource(), {"m": ModelConfig("m", str(tmp_path))}
    for version in range(1, 30):
        (tmp_path / ".staging").mkdir()
        (tmp_path / ".staging").rename(tmp_path / str(version))
        assert list(source.poll(models)["m"]) == [version]
    (tmp_path / "29").rmdir()
    assert list(source.poll(models)["m"]) == [28]


def test_an_unchanged_folder_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "1").mkdir()
    age(tmp_path)
    source, models = VersionSource(), {"m": ModelConfig("m", str(tmp_path))}
    first = source.poll(models)

    def refuse(path: str) -> None:
        raise AssertionError(f"{path} was read again")

    monkeypatch.setattr(os, "scandir", refuse)
    assert source.poll(models) == first


def test_ten_thousand_versions_cost_little(tmp_path: Path) -> None:
    for version in range(10_000):
        (tmp_path / str(version)).mkdir()
    source, models = VersionSource(), {"m": ModelConfig("m", str(tmp_path))}
    times = []
    for _ in range(5):  # just changed: read each time
        began = time.perf_counter()
        assert list(source.poll(models)["m"]) == [9999]
        times.append(time.perf_counter() - began)
    age(tmp_path)
    source.poll(models)
    began = time.perf_counter()
    source.poll(models)
    quiet = time.perf_counter() - began
    print(f"poll of 10,000 versions: changed {min(times[1:]) * 1e3:.1f} ms, unchanged {quiet * 1e3:.3f} ms")
    assert min(times[1:]) < 0.1  # 10 ms on a quiet machine
    assert quiet < 0.02


def test_models_are_sub_folders_with_a_valid_name(tmp_path: Path) -> None:
    for name in ("fashion", "iris_2", "a-b.c", ".staging", "12", "sp ace", "lost+found"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    folder = ModelsFolder(str(tmp_path))
    assert list(folder.models()) == ["a-b.c", "fashion", "iris_2"]
    (tmp_path / "newcomer").mkdir()
    assert folder.models()["newcomer"] == ModelConfig("newcomer", str(tmp_path / "newcomer"))


def test_an_unreadable_models_folder_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "models" / "m").mkdir(parents=True)
    folder = ModelsFolder(str(tmp_path / "models"))
    before = folder.models()
    (tmp_path / "models").rename(tmp_path / "away")
    assert folder.models() == before


def test_what_is_missing_from_a_version(version_folder: Callable[[str, int], Path]) -> None:
    folder = version_folder("m", 1)
    assert missing_part(str(folder)) is None
    variables = folder / "variables"
    variables.mkdir()
    assert missing_part(str(folder)) is None  # models without variables have an empty folder
    (variables / "variables.data-00001-of-00002").write_bytes(b"1")
    assert "variables.index is missing" in str(missing_part(str(folder)))
    (variables / "variables.index").write_bytes(b"i")
    assert "lacks data shard 0 of 2" in str(missing_part(str(folder)))
    before = fingerprint(str(folder))
    (variables / "variables.data-00000-of-00002").write_bytes(b"0")
    assert missing_part(str(folder)) is None
    assert fingerprint(str(folder)) != before
    (folder / "saved_model.pb").unlink()
    assert "Could not find SavedModel" in str(missing_part(str(folder)))
    assert missing_part(str(folder / "nowhere")) is not None
