"""The bootstrap script's refusals, the lock files, and the Makefile's words. Installing itself is how CI begins."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))
PIN = re.compile(r"^([a-z0-9._-]+)==([^ ]+)(?: ; (.+?))? \\$", re.MULTILINE)


def bootstrap(*words: str, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(ROOT / "deploy" / "bootstrap.sh"), *words],
        env={"PATH": "/usr/bin:/bin", **env},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def fake_python(folder: Path, version: str) -> Path:
    path = folder / "python3"
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize("version", ["3.10", "3.14", "2.7"])
def test_a_python_that_was_named_but_does_not_fit_is_refused(tmp_path: Path, version: str) -> None:
    done = bootstrap(PYTHON=str(fake_python(tmp_path, version)), VENV=str(tmp_path / "venv"))
    assert done.returncode == 1
    assert version in done.stderr
    assert "3.11, 3.12 or 3.13" in done.stderr
    assert not (tmp_path / "venv").exists()


def test_without_any_fitting_python_it_says_how_to_name_one(tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for tool in ("sh", "dirname", "cat", "grep", "date", "rm"):
        source = next(Path(place) / tool for place in ("/usr/bin", "/bin") if (Path(place) / tool).exists())
        (folder / tool).symlink_to(source)
    fake_python(folder, "3.8")
    done = bootstrap(PATH=str(folder), VENV=str(tmp_path / "venv"))
    assert done.returncode == 1
    assert "'3.8'" in done.stderr
    assert "PYTHON=" in done.stderr


def test_an_unknown_lock_is_named() -> None:
    done = bootstrap("nonsense")
    assert done.returncode == 1
    assert "requirements/nonsense.lock" in done.stderr


def pins(lock: Path) -> dict[tuple[str, str | None], str]:
    return {(name, marker): version for name, version, marker in PIN.findall(lock.read_text())}


def test_both_locks_hold_the_same_versions() -> None:
    local, dev = (pins(ROOT / "requirements" / f"{name}.lock") for name in ("local", "dev"))
    assert len(local) > 80
    assert {name for name, _ in local} < {name for name, _ in dev}
    versions = {(name, version) for (name, _), version in dev.items()}
    assert {(name, version) for (name, _), version in local.items()} <= versions


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_locks_name_no_host_and_pin_every_package_by_hash(lock: Path) -> None:
    text = lock.read_text()
    assert not re.search(r"https?://|--index-url|--extra-index-url|--find-links|--trusted-host", text)
    for entry in re.split(r"\n(?=[a-z0-9])", text):
        assert re.match(r"[a-z0-9._-]+==", entry), entry[:80]
        assert "--hash=sha256:" in entry, entry[:80]


def test_the_build_tool_is_in_the_lock() -> None:
    # one dependency is a source archive; it is built with this and nothing else
    assert any(name == "setuptools" for name, _ in pins(ROOT / "requirements" / "local.lock"))


def test_make_help_lists_targets_that_are_there() -> None:
    shown = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = re.findall(r"^  make (\S+)", shown, re.MULTILINE)
    assert {"demo", "up", "test", "check", "fix", "lock"} <= set(targets)
    for target in targets:
        dry = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True, check=False)
        assert dry.returncode == 0, dry.stderr
