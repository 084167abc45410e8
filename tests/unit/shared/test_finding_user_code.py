"""Finding builders in folders and among installed packages, without importing any."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from shared import user_code

TRAP = "raise SystemExit('it was imported')\n"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package with two entry points, one of which leads nowhere."""
    site = tmp_path / "site"
    (site / "usernets_for_test" / "deep").mkdir(parents=True)
    (site / "usernets_for_test" / "__init__.py").write_text(TRAP)
    (site / "usernets_for_test" / "deep" / "__init__.py").write_text(
        TRAP + "def build_model(units=3):\n    ...\n"
    )
    info = site / "usernets_for_test-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: usernets-for-test\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(
        "[modelyard.builders]\ndeep = usernets_for_test.deep\ngone = usernets_for_test.nothing\n"
    )
    monkeypatch.syspath_prepend(str(site))
    return site / "usernets_for_test"


def test_an_installed_package_is_found_by_its_entry_point(installed: Path) -> None:
    found = user_code.find("deep", ())
    assert found is not None
    assert (found.package, found.source, found.problem) == (
        "usernets_for_test.deep",
        "package usernets-for-test 1.2",
        None,
    )
    assert [item.name for item in found.functions["build_model"].parameters] == ["units"]
    assert found.sha256 == user_code.content_hash(installed), "all of the package may take part"
    gone = user_code.find("gone", ())
    assert gone is not None
    assert "is not there" in str(gone.problem)
    assert not any(name.startswith("usernets_for_test") for name in sys.modules)


def test_the_hash_is_of_names_and_bytes_of_python_files(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "a.py").write_text("x = 1\n")
    first = user_code.content_hash(folder)
    (folder / "__pycache__" / "a.py").write_text("ignored")
    (folder / "notes.txt").write_text("ignored")
    assert user_code.content_hash(folder) == first
    (folder / "a.py").rename(folder / "b.py")
    assert user_code.content_hash(folder) != first


def test_a_folder_that_is_a_package_is_one_builder(tmp_path: Path) -> None:
    folder = tmp_path / "whole"
    folder.mkdir()
    (folder / "__init__.py").write_text("from .model import build_model\n")
    (folder / "model.py").write_text(
        "def build_model(params):\n    return params['units'], params.get('a', [1, 2])\n"
    )
    (only,) = user_code.find_all((folder,))
    assert only.name == "whole"
    assert [
        (item.name, item.required, item.default) for item in only.functions["build_model"].parameters
    ] == [
        ("units", True, None),
        ("a", False, [1, 2]),
    ]


def test_the_first_folder_keeps_a_name_and_two_definitions_in_one_are_refused(tmp_path: Path) -> None:
    for place, value in (("one", 1), ("two", 2)):
        (tmp_path / place).mkdir()
        (tmp_path / place / "net.py").write_text(f"def build_model(a={value}): ...\n")
    (net,) = user_code.find_all((tmp_path / "one", tmp_path / "two"))
    assert net.functions["build_model"].parameters[0].default == 1
    both = tmp_path / "three" / "both"
    both.mkdir(parents=True)
    for name in ("a", "b"):
        (both / f"{name}.py").write_text("def build_model(params): ...\n")
    (found,) = user_code.find_all((tmp_path / "three",))
    assert "a.py, b.py" in str(found.problem)


def test_too_much_for_a_builder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_code, "MAX_FILES", 3)
    (tmp_path / "many").mkdir()
    for number in range(4):
        (tmp_path / "many" / f"m{number}.py").write_text("")
    (found,) = user_code.find_all((tmp_path,))
    assert "more than 3 .py files" in str(found.problem)


@pytest.mark.parametrize("name", ["../secret", "a/b", "", ".", "nothing"])
def test_a_name_is_only_compared(name: str, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "secret.py").write_text("def build_model(params): ...\n")
    assert user_code.find(name, (tmp_path / "code",)) is None
