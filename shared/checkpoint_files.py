"""Checkpoints as files, for whoever looks at them: what is noted about each, and whether it is still what was noted.

``checkpoints/000002-00000469.npz`` holds a training's arrays; the ``.json`` beside it says at which step they were
taken and has their SHA-256 and one of its own. The JSON file is written last, so a checkpoint without one, or with
another sum, is not a checkpoint.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = 2
FOLDER = "checkpoints"  # of a run's folder


@dataclass(frozen=True, slots=True)
class CheckpointFile:
    """One checkpoint as a person sees it.

    Attributes:
        path: relative to the run's folder.
        epoch: whole epochs done. step: of the next epoch. total: optimizer steps in all.
        metrics: of the epoch that had just ended; within an epoch, its running means.
        best: it is the best so far, by the monitored metric.
        complete: training has ended there.
        verified: its bytes are those that were written; None when that was not looked at.
        problem: what is wrong, if anything.
    """

    path: str
    epoch: int | None
    step: int | None
    total: int | None
    size_bytes: int
    sha256: str | None
    metrics: dict[str, float]
    best: bool
    complete: bool
    written_at: float | None
    verified: bool | None
    problem: str | None


def stem(epoch: int, step: int) -> str:
    """File name without its ending; names sort as positions do."""
    return f"{epoch:06d}-{step:08d}"


def write_notes(path: Path, body: dict[str, Any]) -> None:
    """Write ``path`` (.json) whole or not at all.

    Raises:
        OSError: the disk is full.
    """
    text = json.dumps(body)
    whole = json.dumps({"format": FORMAT, "sha256": hashlib.sha256(text.encode()).hexdigest(), "body": text})
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w") as file:
            file.write(whole)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def read_notes(path: Path) -> dict[str, Any]:
    """What ``write_notes`` wrote.

    Raises:
        OSError: it can't be read.
        ValueError: it is not what was written.
    """
    whole = json.loads(path.read_text())
    if not isinstance(whole, dict) or whole.get("format") != FORMAT:
        raise ValueError(f"its format is not {FORMAT}")
    text = whole.get("body")
    if not isinstance(text, str) or hashlib.sha256(text.encode()).hexdigest() != whole.get("sha256"):
        raise ValueError("its notes are not what was written")
    body = json.loads(text)
    if not isinstance(body, dict):
        raise ValueError("its notes are no object")
    return body


def check_arrays(path: Path, sha256: str) -> None:
    """Compare the file with its sum.

    Raises:
        OSError: it can't be read.
        ValueError: it is not what was written.
    """
    state = path.stat()
    if _digest(path, state.st_ino, state.st_size, state.st_mtime_ns) != sha256:
        raise ValueError("its SHA-256 is not the one that was noted when it was written")


@functools.lru_cache(maxsize=4096)
def _digest(path: Path, inode: int, size: int, changed_ns: int) -> str:
    """The file's sum, computed once for each state of it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def listing(run_dir: Path, *, verify: bool = True) -> list[CheckpointFile]:
    """The checkpoints of one run, newest first; damaged ones too.

    Args:
        verify: read each file whole and compare it with its sum; an unchanged file is read once.
    """
    folder = run_dir / FOLDER
    found = [_look(notes, verify) for notes in sorted(folder.glob("*.json"), reverse=True)]
    best = next((name for _, name in found if name is not None), None)
    return [
        CheckpointFile(**{**seen, "best": best is not None and seen["path"] == f"{FOLDER}/{best}"})
        for seen, _ in found
    ]


def _look(notes: Path, verify: bool) -> tuple[dict[str, Any], str | None]:
    """What ``CheckpointFile`` holds, and the name of the best checkpoint when this one was written."""
    arrays = notes.with_suffix(".npz")
    seen: dict[str, Any] = {
        "path": f"{FOLDER}/{arrays.name}",
        "epoch": None,
        "step": None,
        "total": None,
        "size_bytes": 0,
        "sha256": None,
        "metrics": {},
        "complete": False,
        "written_at": None,
        "verified": False,
        "problem": None,
    }
    try:
        body = read_notes(notes)
        seen |= body["position"]
        seen |= {name: body[name] for name in ("sha256", "metrics", "complete", "written_at")}
        seen["size_bytes"] = arrays.stat().st_size
        if verify:
            check_arrays(arrays, body["sha256"])
        seen["verified"] = True if verify else None
    except (OSError, ValueError, KeyError, TypeError) as error:
        seen["problem"] = (
            "the file is missing" if isinstance(error, FileNotFoundError) else " ".join(f"{error}".split())
        )
        return seen, None
    return seen, (body.get("best") or {}).get("file")


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` last through a power cut."""
    with contextlib.suppress(OSError):  # some file systems refuse; the rename itself is done
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
