"""The only code that knows ``<models>/<name>/<version>``: stage, make visible, list, remove.

A model server takes any folder whose name is an integer as a version, complete or not, so a version becomes visible
by one rename of a folder that was complete and on disk before
(tensorflow/serving: sources/storage_path/file_system_storage_path_source.cc).
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shared.errors import ModelyardError
from shared.names import checked_name

MANIFEST = Path("assets.extra") / "modelyard.json"


class DiskFull(ModelyardError):
    """The models volume has no room."""

    code = "disk_full"


class ModelRepo:
    """A folder of models. Its caller serialises publishes of one model; readers need no lock."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def stage(self, model: str, job_id: str, attempt: int, export: Path, extra: dict[str, Any]) -> Path:
        """Copy a finished export beside its target and force it to disk; nothing is visible to a server yet.

        ``extra`` is merged into the manifest ``assets.extra/modelyard.json``, with the job's id.

        Raises:
            DiskFull: no room; what had been copied is removed.
            InvalidInput: ``model`` can't be a folder.
        """
        folder = self.root / checked_name(model, field="publish.model")
        staged = folder / f".staging-{job_id}-{attempt}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for leftover in folder.glob(f".staging-{job_id}-*"):
                shutil.rmtree(leftover)
            shutil.copytree(export, staged)
            manifest = staged / MANIFEST
            manifest.parent.mkdir(exist_ok=True)
            known = json.loads(manifest.read_text()) if manifest.exists() else {}
            manifest.write_text(json.dumps({**known, **extra, "job_id": job_id}, indent=1))
            _flush_tree(staged)
        except (OSError, shutil.Error) as error:
            shutil.rmtree(staged, ignore_errors=True)
            if _is_disk_full(error):
                raise DiskFull(
                    f"There is no room to publish {model!r} in {self.root}.",
                    hint="Free space, for example by deleting old versions, then retry the job: "
                    "it goes on from its checkpoint.",
                ) from error
            raise
        return staged

    def place(self, model: str, staged: Path, job_id: str, lowest: int) -> int:
        """Make a staged version visible under the next free number, at least ``lowest``; returns the number.

        If an earlier attempt of the same job had made it visible without living to record it, that version is
        adopted and the staged copy dropped.
        """
        folder = self.root / model
        numbers = [number for number in self.versions(model) if number >= lowest]
        for number in numbers:
            if self.manifest(model, number).get("job_id") == job_id:
                shutil.rmtree(staged)
                return number
        version = max([lowest - 1, *numbers]) + 1
        os.rename(staged, folder / str(version))
        _flush(folder)
        return version

    def versions(self, model: str) -> list[int]:
        """Version numbers on disk, ascending, by the server's rule: the whole name is an integer."""
        try:
            with os.scandir(self.root / model) as entries:
                return sorted({int(entry.name) for entry in entries if _is_version(entry.name)})
        except FileNotFoundError:
            return []

    def manifest(self, model: str, version: int) -> dict[str, Any]:
        """What we wrote beside a version; empty for versions that are not ours."""
        try:
            data = json.loads((self.root / model / str(version) / MANIFEST).read_text())
        except (OSError, ValueError):
            return {}
        return data if isinstance(data, dict) else {}

    def remove(self, model: str, version: int) -> None:
        """Take a version away: out of the server's sight by one rename, then off the disk."""
        folder = self.root / checked_name(model, field="model")
        hidden = folder / f".removed-{version}"
        shutil.rmtree(hidden, ignore_errors=True)
        try:
            os.rename(folder / str(version), hidden)
        except FileNotFoundError:
            return
        shutil.rmtree(hidden, ignore_errors=True)


def tree_size(folder: Path) -> int:
    """Bytes of all files below ``folder``."""
    return sum(path.stat().st_size for path in _files(folder))


def _is_version(name: str) -> bool:
    return name.isascii() and name.isdigit()


def _files(folder: Path) -> Iterator[Path]:
    for base, _, names in os.walk(folder):
        for name in names:
            yield Path(base) / name


def _flush_tree(folder: Path) -> None:
    for path in _files(folder):
        _flush(path)
    for base, _, _ in os.walk(folder, topdown=False):
        _flush(Path(base))


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_disk_full(error: BaseException) -> bool:
    if isinstance(error, shutil.Error):  # copytree collects (source, target, text) triples
        return any("No space left" in str(item) or "quota" in str(item).lower() for item in error.args[0])
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
