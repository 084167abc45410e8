"""Debian's packages without root."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from services.worker.training.data import apt, debian


def test_without_apt_the_package_is_not_available(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(apt.NotAvailable, match="no apt-get"):
        debian.genuine_files(tmp_path, installed=tmp_path / "nowhere")


class Apt:
    """Stands in for the programs, as they speak on Debian 12; lists are there only after an update."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, plan: str = "") -> None:
        self.seen: list[tuple[str, ...]] = []
        self.plan = plan
        self.updates = True
        monkeypatch.setattr(apt.subprocess, "run", self.run)
        monkeypatch.setattr(apt.shutil, "which", lambda name: f"/usr/bin/{name}")

    def run(self, command: tuple[str, ...], cwd: Path, **options: object) -> subprocess.CompletedProcess[str]:
        had_lists = any("update" in seen for seen in self.seen)
        self.seen.append(command)
        if "update" in command and not self.updates:
            return subprocess.CompletedProcess(command, 100, "", "E: No way\n")
        if "apt-get" in command and "update" not in command and not had_lists:
            return subprocess.CompletedProcess(command, 100, "", "E: Unable to locate package\n")
        if "download" in command:
            (cwd / "some_1_amd64.deb").write_bytes(b"")
        return subprocess.CompletedProcess(command, 0, self.plan if "--simulate" in command else "", "")


def test_empty_package_lists_are_fetched_into_a_private_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Apt(monkeypatch)
    apt.unpack(("some",), tmp_path / "target")
    _first, update, again, unpacked = program.seen
    assert update[-1] == "update"
    assert any(option.startswith("Dir::State::Lists=") for option in update)
    assert set(update[1:-1]) < set(again)
    assert unpacked[:2] == ("dpkg", "-x")
    assert unpacked[-1] == str(tmp_path / "target")


def test_why_it_can_not_be_had_is_said_in_apts_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = Apt(monkeypatch)
    program.updates = False
    with pytest.raises(apt.NotAvailable, match="apt-get failed: E: No way"):
        apt.unpack(("some",), tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_what_a_package_needs_comes_in_the_version_that_apt_would_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = (
        "NOTE: This is only a simulation!\n"
        "Inst libogg0 (1.3.5-3 Debian:12.15/oldstable [amd64])\n"
        "Inst libnew [1.0] (1.1-2 Debian:12.15/oldstable [amd64])\n"
        "Inst some (2 Debian:12.15/oldstable [amd64])\n"
        "Conf libogg0 (1.3.5-3 Debian:12.15/oldstable [amd64])\n"
    )
    program = Apt(monkeypatch, plan)
    apt.unpack(("some", "here"), tmp_path / "target", dependencies=True)
    (download,) = (command for command in program.seen if "download" in command)
    assert download[download.index("download") + 1 :] == ("some", "here", "libogg0=1.3.5-3", "libnew=1.1-2")
