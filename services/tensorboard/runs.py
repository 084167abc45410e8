"""The runs below the log folder: ``<model>/<time>-<job>/{train,validation,test}``."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

PARTS = ("", "train", "validation", "test")  # folders of a job's run that may have event files
_JOB = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
EVENTS = ".tfevents."


def jobs_in(experiment: str) -> list[str] | None:
    """The jobs that an experiment's name lists, as ``job_a,job_b``; None if it is no such list."""
    names = experiment.split(",")
    return names if all(_JOB.fullmatch(name) for name in names) else None


def folders(logdir: Path) -> list[Path]:
    """Every job's folder, newest first by the time in its name. Costs one look at each model's folder."""
    found = []
    for model in _subfolders(logdir):
        found += _subfolders(model)
    return sorted(found, key=lambda path: path.name, reverse=True)


def of_jobs(logdir: Path, jobs: Iterable[str]) -> list[Path]:
    """The folders of ``jobs``, by their ids."""
    wanted = set(jobs)
    return [path for path in folders(logdir) if wanted & {path.name, path.name.rpartition("-")[2]}]


def newest(logdir: Path, limit: int) -> list[Path]:
    """The newest folders that TensorBoard can show."""
    found = []
    for path in folders(logdir):
        if event_files(path):
            found.append(path)
            if len(found) == limit:
                break
    return found


def event_files(folder: Path) -> dict[Path, dict[str, int]]:
    """Event files of one job: by the folder they are in, each name with its size in bytes."""
    found: dict[Path, dict[str, int]] = {}
    for part in PARTS:
        here = folder / part if part else folder
        sizes = {}
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if EVENTS in entry.name and entry.is_file():
                        sizes[entry.name] = entry.stat().st_size
        except OSError:
            continue  # not there, or gone meanwhile
        if sizes:
            found[here] = sizes
    return found


def profiles(folder: Path) -> list[Path]:
    """Folders of profiles that one job has taken."""
    return [path for part in PARTS[1:] for path in _subfolders(folder / part / "plugins" / "profile")]


def _subfolders(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [
                Path(entry.path) for entry in entries if not entry.name.startswith(".") and entry.is_dir()
            ]
    except OSError:
        return []
