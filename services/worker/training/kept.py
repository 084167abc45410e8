"""What a run keeps so that its model can be exported and trained on later; see ``shared.model_sources`` for the files.

All but ``model.keras`` is there from the start of training, so that the checkpoints of a job that failed or was
cancelled are of use too. Each file is whole or absent: it is written beside its place and renamed.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from services.worker.training.data.record import Array, TrainingData
from services.worker.training.model_facts import ModelFacts

FACTS, ARCHITECTURE, GOLDEN, MODEL = "model.json", "architecture.json", "golden.npz", "model.keras"
GOLDEN_ROWS, GOLDEN_BYTES = 128, 4 * 2**20


@dataclass(frozen=True, slots=True)
class Golden:
    """A few rows of the job's own data, of its test data where there are some.

    Attributes:
        rows: [n, ...], as the data have them.
        targets: [n, ...].
        answers: float32 [n, outputs], what the trained model answers, as it is served; None before it is trained.
    """

    rows: Array
    targets: Array
    answers: Array | None = None


def golden_rows(data: TrainingData) -> Golden:
    """The first rows, at most 128 and 4 MiB (one row at least)."""
    part = data.test if data.test is not None else data.train
    size = max(1, int(np.asarray(part.x[:1]).nbytes))
    count = max(1, min(GOLDEN_ROWS, GOLDEN_BYTES // size, len(part)))
    x, y = part.read(np.arange(count))
    return Golden(np.array(x), np.array(y))


def begin(folder: Path, model: keras.Model, facts: ModelFacts, golden: Golden, **more: Any) -> None:
    """Keep what is known before the first step. ``more`` is added to the facts.

    Raises:
        OSError: the disk is full.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL).unlink(missing_ok=True)  # of an earlier attempt
    write_json(folder / ARCHITECTURE, json.loads(model.to_json()))
    write_golden(folder / GOLDEN, golden)
    write_json(folder / FACTS, {**facts.as_dict(), **more})


def finish(folder: Path, model: keras.Model, facts: ModelFacts, golden: Golden, **more: Any) -> None:
    """Keep the trained model with its optimizer's state, and its answers to the golden rows.

    Raises:
        OSError: the disk is full.
    """
    write_golden(folder / GOLDEN, golden)
    write_json(folder / FACTS, {**facts.as_dict(), **more})
    in_place(folder / MODEL, lambda path: model.save(path, overwrite=True))


def read_golden(path: Path) -> Golden:
    """What ``write_golden`` wrote.

    Raises:
        OSError, ValueError, KeyError: it is not there, or not that.
    """
    with np.load(path, allow_pickle=False) as archive:
        return Golden(archive["rows"], archive["targets"], archive.get("answers"))


def write_golden(path: Path, golden: Golden) -> None:
    """Arrays ``rows``, ``targets`` and, when they are known, ``answers``."""
    arrays = {"rows": golden.rows, "targets": golden.targets}
    if golden.answers is not None:
        arrays["answers"] = golden.answers

    def write(place: Path) -> None:
        with place.open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)

    in_place(path, write)


def write_json(path: Path, value: Any) -> None:
    """JSON, whole or absent."""
    in_place(path, lambda place: place.write_text(json.dumps(value, indent=1)))


def in_place(path: Path, write: Callable[[Path], Any]) -> None:
    """Have ``write`` make a file of the same suffix beside ``path``, force it to disk, and rename it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".writing-", dir=path.parent))
    place = folder / path.name
    try:
        write(place)
        with place.open("rb") as file:
            os.fsync(file.fileno())
        place.replace(path)
    finally:
        place.unlink(missing_ok=True)
        folder.rmdir()
