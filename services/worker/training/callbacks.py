"""The user's callbacks: Keras' own, by name, with their files kept inside the run; and their state in checkpoints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from services.worker.training.data.record import Array
from services.worker.training.failures import model_invalid, shorten
from shared.specs import KerasObject

_FILE_ARGUMENTS = {"ModelCheckpoint": "filepath", "CSVLogger": "filename"}
# What each remembers from epoch to epoch. on_train_begin forgets it, so it is put back after that.
_STATE = (
    "best",
    "wait",
    "stopped_epoch",
    "best_epoch",
    "cooldown_counter",
    "_batches_seen_since_last_saving",
    "_last_batch_seen",
)


def make(specs: Sequence[KerasObject], run_dir: Path, *, resuming: bool) -> list[Any]:
    """Callbacks in the spec's order.

    Args:
        specs: names and params.
        run_dir: relative file names lie below it; others are refused.
        resuming: a CSVLogger then goes on in its file.

    Raises:
        TrainingFailed: model_invalid with the field's path.
    """
    return [_made(index, spec, run_dir, resuming=resuming) for index, spec in enumerate(specs)]


def _made(index: int, spec: KerasObject, run_dir: Path, *, resuming: bool) -> Any:
    field = f"fit.callbacks.{index}.params"
    params = dict(spec.params)
    argument = _FILE_ARGUMENTS.get(spec.name)
    if argument is not None:
        params[argument] = str(_inside(f"{field}.{argument}", params.get(argument), run_dir))
        if spec.name == "CSVLogger" and resuming:
            params["append"] = True
    try:
        return getattr(keras.callbacks, spec.name)(**params)
    except (TypeError, ValueError) as error:
        raise model_invalid(field, f"{spec.name}: {shorten(str(error), 300)}") from error


def _inside(field: str, name: Any, run_dir: Path) -> Path:
    if not isinstance(name, str) or not name:
        raise model_invalid(field, "a file name is needed")
    root = run_dir.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root) or path == root:
        raise model_invalid(
            field, f"{name!r} lies outside the run's folder", "Give a relative name, such as best.keras."
        )
    if path.relative_to(root).parts[0] in {
        "checkpoints",
        "export",
        "train",
        "validation",
        "job.log",
        "spec.json",
    }:
        raise model_invalid(field, f"{name!r} is a place of Modelyard's own", "Choose another name.")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def state_of(callbacks: Sequence[Any]) -> tuple[list[dict[str, Any]], dict[str, Array]]:
    """What the callbacks remember: plain values per callback, and arrays (best weights) by name."""
    values: list[dict[str, Any]] = []
    arrays: dict[str, Array] = {}
    for index, callback in enumerate(callbacks):
        values.append({name: _plain(vars(callback)[name]) for name in _STATE if name in vars(callback)})
        for number, weights in enumerate(getattr(callback, "best_weights", None) or ()):
            arrays[f"callback{index}/best_weights/{number:05d}"] = np.asarray(weights)
    return values, arrays


def restore(
    callbacks: Sequence[Any], values: Sequence[Mapping[str, Any]], arrays: Mapping[str, Array]
) -> None:
    """Give callbacks back what ``state_of`` took, after their ``on_train_begin``."""
    for index, (callback, saved) in enumerate(zip(callbacks, values, strict=False)):
        for name, value in saved.items():
            setattr(callback, name, value)
        prefix = f"callback{index}/best_weights/"
        weights = [arrays[name] for name in sorted(arrays) if name.startswith(prefix)]
        if weights:
            callback.best_weights = weights


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return float(np.asarray(value))
