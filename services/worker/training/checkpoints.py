"""Checkpoints on disk: all that a later attempt needs to go on as if nothing had happened.

``checkpoints/00002-00000469.npz`` holds arrays, the ``.json`` beside it says what they are and their SHA-256. The
JSON file is written last, so a checkpoint without one, or with another sum, is not a checkpoint: a reader takes
the one before.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from services.worker.training.data.record import Array

FORMAT = 1


@dataclass(frozen=True, slots=True)
class Position:
    """How far training is: ``epoch`` whole epochs and ``step`` steps of the next one; ``total`` steps in all."""

    epoch: int = 0
    step: int = 0
    total: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state at one position.

    Attributes:
        arrays: by name, any dtype that NumPy can write.
        callbacks: what each of the user's callbacks remembers.
        identity: what must be equal for the state to make sense: data, batch size, seed, names and shapes.
        complete: training has ended (by its epochs or a callback); only evaluation and export are left.
    """

    position: Position
    arrays: Mapping[str, Array]
    callbacks: list[dict[str, Any]] = field(default_factory=list)
    identity: dict[str, Any] = field(default_factory=dict)
    complete: bool = False


def write(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write one checkpoint so that it is whole or absent whatever happens, and delete all but the newest ``keep``.

    Raises:
        OSError: the disk is full; older checkpoints are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    position = checkpoint.position
    path = folder / f"{position.epoch:05d}-{position.step:08d}.npz"
    notes = path.with_suffix(".json")
    temporary = folder / f".{path.name}.tmp"
    try:
        with temporary.open("wb") as file:
            # names of arrays are paths with slashes and may repeat a keyword of savez, so they go by number
            np.savez(file, allow_pickle=False, **_numbered(checkpoint.arrays))
            file.flush()
            os.fsync(file.fileno())
        with temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        text = json.dumps(
            {
                "format": FORMAT,
                "sha256": digest,
                "position": asdict(position),
                "names": list(checkpoint.arrays),
                "callbacks": checkpoint.callbacks,
                "identity": checkpoint.identity,
                "complete": checkpoint.complete,
            }
        )
        notes.unlink(missing_ok=True)  # of an earlier attempt at the same position
        temporary.replace(path)
        _write_text(notes, text)
    finally:
        temporary.unlink(missing_ok=True)
    _sync_folder(folder)
    _prune(folder, keep)
    return path


def newest(folder: Path) -> Iterator[tuple[Path, Checkpoint | str]]:
    """Checkpoints from the newest back; in place of a damaged one, what is wrong with it."""
    for notes in sorted(folder.glob("*.json"), reverse=True):
        path = notes.with_suffix(".npz")
        try:
            yield path, _read(path, json.loads(notes.read_text()))
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            yield path, f"{type(error).__name__}: {error}"


def _read(path: Path, notes: dict[str, Any]) -> Checkpoint:
    if notes["format"] != FORMAT:
        raise ValueError(f"format {notes['format']} is not {FORMAT}")
    with path.open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != notes["sha256"]:
            raise ValueError("its SHA-256 is not the one that was noted when it was written")
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[f"a{index}"] for index, name in enumerate(notes["names"])}
    return Checkpoint(
        position=Position(**notes["position"]),
        arrays=arrays,
        callbacks=notes["callbacks"],
        identity=notes["identity"],
        complete=bool(notes["complete"]),
    )


def _numbered(arrays: Mapping[str, Array]) -> dict[str, Any]:
    return {f"a{index}": array for index, array in enumerate(arrays.values())}


def _write_text(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # some file systems refuse; the rename itself is done
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _prune(folder: Path, keep: int) -> None:
    notes = sorted(folder.glob("*.json"))
    for old in notes[: max(0, len(notes) - keep)]:
        old.unlink(missing_ok=True)  # first, so that no note is ever without its arrays
        old.with_suffix(".npz").unlink(missing_ok=True)
    kept = {path.stem for path in notes[-keep:]}
    for stray in folder.glob("*.npz"):
        if stray.stem not in kept:
            stray.unlink(missing_ok=True)
