"""The runs below the log folder: ``<model>/<time>-<job>/{train,validation,test}``.

A study's trials lie below it, each a run like any: ``<model>/<time>-<study>/trial-<number>-<job>/{train,...}``.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

PARTS = ("", "train", "validation", "test")  # folders of a job's run that may have event files
_JOB = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}")
EVENTS = ".tfevents."
TRIAL = "trial-"
# A study's own files: they make all that is shown with them one experiment of the HParams page.
OF_STUDIES = "hparams" + EVENTS


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


def of_jobs(logdir: Path, jobs: Iterable[str], max_trials: int) -> list[Path]:
    """The folders of ``jobs``, by their ids; a study's with those of its trials, the newest ``max_trials`` of them."""
    wanted, found = set(jobs), []
    everything = folders(logdir)
    for path in everything:
        if _is_of(path, wanted):
            found += [path, *trials(path)[:max_trials]]
            wanted -= {path.name, _job(path)}
    if wanted:  # some may be trials
        found += [trial for path in everything for trial in trials(path) if _is_of(trial, wanted)]
    return found


def trials(folder: Path) -> list[Path]:
    """The trials of a study, newest first; none of any other job."""
    found = [path for path in _subfolders(folder) if path.name.startswith(TRIAL)]
    return sorted(found, key=lambda path: path.name, reverse=True)


def newest(logdir: Path, limit: int) -> list[Path]:
    """The newest folders that TensorBoard can show, each trial of a study one of them."""
    found: list[Path] = []
    for path in folders(logdir):
        for run in trials(path) or [path]:
            if event_files(run, of_studies=False):
                found.append(run)
                if len(found) == limit:
                    return found
    return found


def _job(folder: Path) -> str:
    return folder.name.rpartition("-")[2]


def _is_of(folder: Path, jobs: set[str]) -> bool:
    return not jobs.isdisjoint({folder.name, _job(folder)})


def event_files(folder: Path, *, of_studies: bool = True) -> dict[Path, dict[str, int]]:
    """Event files of one job: by the folder they are in, each name with its size in bytes.

    Without ``of_studies`` a trial is a run like any other job's.
    """
    found: dict[Path, dict[str, int]] = {}
    for part in PARTS:
        here = folder / part if part else folder
        sizes = {}
        try:
            with os.scandir(here) as entries:
                for entry in entries:
                    if EVENTS not in entry.name or (not of_studies and entry.name.startswith(OF_STUDIES)):
                        continue
                    if entry.is_file():
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
