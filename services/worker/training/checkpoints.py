"""Checkpoints on disk: all that a later attempt needs to go on as if nothing had happened.

How the files are laid out and verified is in ``shared.checkpoint_files``; here they are written from arrays, pruned,
and read back.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from services.worker.training.data.record import Array
from shared import checkpoint_files


@dataclass(frozen=True, slots=True)
class Position:
    """How far training is: ``epoch`` whole epochs and ``step`` steps of the next one; ``total`` steps in all."""

    epoch: int = 0
    step: int = 0
    total: int = 0

    @property
    def stem(self) -> str:
        """Name of this position's files."""
        return checkpoint_files.stem(self.epoch, self.step)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state at one position.

    Attributes:
        arrays: by name, any dtype that NumPy can write.
        callbacks: what each of the user's callbacks remembers.
        identity: what must be equal for the state to make sense: data, batch size, seed, names and shapes.
        complete: training has ended (by its epochs or a callback); only evaluation and export are left.
        stopping: a callback has asked to end training, which ends with this epoch.
        metrics: as they stood.
        best: the best epoch so far: monitor, mode, value, epoch, and the file of its checkpoint.
        files: of the run, by path relative to its folder: how many bytes of each belong to what has happened so far.
        board: what of TensorBoard's files is written once and has been.
    """

    position: Position
    arrays: Mapping[str, Array]
    callbacks: list[dict[str, Any]] = field(default_factory=list)
    identity: dict[str, Any] = field(default_factory=dict)
    complete: bool = False
    stopping: bool = False
    metrics: dict[str, float] = field(default_factory=dict)
    best: dict[str, Any] | None = None
    files: dict[str, int] = field(default_factory=dict)
    board: dict[str, Any] = field(default_factory=dict)


_NOTED = ("callbacks", "identity", "complete", "stopping", "metrics", "best", "files", "board")


def write(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Write one checkpoint so that it is whole or absent whatever happens.

    All but the newest ``keep`` and the best one are deleted afterwards.

    Raises:
        OSError: the disk is full; older checkpoints are untouched.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{checkpoint.position.stem}.npz"
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
        notes.unlink(missing_ok=True)  # of an earlier attempt at the same position
        temporary.replace(path)
        checkpoint_files.write_notes(
            notes,
            {
                "sha256": digest,
                "position": asdict(checkpoint.position),
                "names": list(checkpoint.arrays),
                "written_at": time.time(),
                **{name: getattr(checkpoint, name) for name in _NOTED},
            },
        )
    finally:
        temporary.unlink(missing_ok=True)
    _prune(folder, keep, (checkpoint.best or {}).get("file"))
    return path


def newest(folder: Path) -> Iterator[tuple[Path, Checkpoint | str]]:
    """Checkpoints from the newest back; in place of a damaged one, what is wrong with it."""
    for notes in sorted(folder.glob("*.json"), reverse=True):
        path = notes.with_suffix(".npz")
        try:
            yield path, read(path)
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            yield path, f"{type(error).__name__}: {error}"


def read(path: Path) -> Checkpoint:
    """The checkpoint at ``path`` (.npz), verified.

    Raises:
        OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile: it is damaged.
    """
    body = checkpoint_files.read_notes(path.with_suffix(".json"))
    checkpoint_files.check_arrays(path, body["sha256"])
    with np.load(path, allow_pickle=False) as archive:
        arrays = {name: archive[f"a{index}"] for index, name in enumerate(body["names"])}
    return Checkpoint(
        position=Position(**body["position"]), arrays=arrays, **{name: body[name] for name in _NOTED}
    )


def discard_after(folder: Path, position: Position | None) -> None:
    """Delete what is newer than ``position`` (all, if None), and what a killed attempt left half written.

    What a resumed attempt has passed over must not be counted among the newest ones that are kept.
    """
    if not folder.is_dir():
        return
    for stray in folder.glob(".*.tmp"):
        stray.unlink(missing_ok=True)
    for notes in folder.glob("*.json"):
        if position is None or notes.stem > position.stem:
            _delete(notes)


def adopt(source: Path, folder: Path, checkpoint: Checkpoint) -> None:
    """Take ``checkpoint`` and its best one from another run's folder into this one, so that it needs no other run."""
    folder.mkdir(parents=True, exist_ok=True)
    best = (checkpoint.best or {}).get("file")
    for name in {f"{checkpoint.position.stem}.npz", best} - {None}:
        for ending in (".npz", ".json"):  # the notes last, as ever
            origin, target = (place / Path(str(name)).with_suffix(ending) for place in (source, folder))
            if not origin.is_file() or target.exists():
                continue
            try:
                os.link(origin, target)
            except OSError:
                temporary = target.with_name(f".{target.name}.tmp")
                shutil.copyfile(origin, temporary)
                temporary.replace(target)


def _numbered(arrays: Mapping[str, Array]) -> dict[str, Any]:
    return {f"a{index}": array for index, array in enumerate(arrays.values())}


def _prune(folder: Path, keep: int, best: str | None) -> None:
    notes = sorted(folder.glob("*.json"))
    best_stem = Path(best).stem if best else None
    for old in notes[: max(0, len(notes) - keep)]:
        if old.stem != best_stem:
            _delete(old)
    kept = {path.stem for path in folder.glob("*.json")}
    for stray in folder.glob("*.npz"):
        if stray.stem not in kept:
            stray.unlink(missing_ok=True)


def _delete(notes: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        notes.unlink()  # first, so that no note is ever without its arrays
    notes.with_suffix(".npz").unlink(missing_ok=True)
