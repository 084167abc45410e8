"""Decoded arrays on disk: made once, memory-mapped by every later job, shared by jobs that run at once.

A folder is complete or absent: it is written beside its place and renamed. It may be deleted at any time.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from services.worker.training.data.record import Array

FORMAT = 1


def read(folder: Path) -> tuple[dict[str, Array], dict[str, Any]] | None:
    """Arrays by name, mapped copy-on-write, and the notes; None if there is no such folder of this format."""
    try:
        notes = json.loads((folder / "notes.json").read_text())
        if notes.get("format") != FORMAT:
            return None
        arrays: dict[str, Array] = {
            # copy-on-write, for a read-only array can't be handed to TensorFlow without a copy
            name: np.load(folder / f"{name}.npy", mmap_mode="c", allow_pickle=False)
            for name in notes["arrays"]
        }
    except (OSError, ValueError, KeyError):
        return None
    if any(list(arrays[name].shape) != shape for name, shape in notes["arrays"].items()):
        return None
    return arrays, notes


def write(folder: Path, arrays: dict[str, Array], notes: dict[str, Any]) -> None:
    """Keep arrays for later jobs. Losing a race against another job is fine: the first one's stay.

    Raises:
        OSError: the disk is full, or not ours.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, array in arrays.items():
            with (staging / f"{name}.npy").open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
        shapes = {name: list(array.shape) for name, array in arrays.items()}
        (staging / "notes.json").write_text(json.dumps({**notes, "format": FORMAT, "arrays": shapes}))
        if folder.exists() and read(folder) is None:
            shutil.rmtree(folder, ignore_errors=True)  # damaged, or of an older format
        with contextlib.suppress(OSError):  # not empty: another job was first
            staging.rename(folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
