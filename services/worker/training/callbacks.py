"""The user's callbacks: Keras' own, by name, with their files kept inside the run; and their state in checkpoints."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from services.worker.training import run_files, schedules
from services.worker.training.data.record import Array
from services.worker.training.failures import model_invalid, shorten
from shared.specs import CallbackSpec
from shared.specs.callbacks import CSVLogger, LearningRateScheduler, ModelCheckpoint, SwapEMAWeights

# What each remembers from epoch to epoch. on_train_begin forgets it, so it is put back after that.
_STATE = (
    "best",
    "wait",
    "stopped_epoch",
    "best_epoch",
    "cooldown_counter",
    "_batches_seen_since_last_saving",
    "_last_batch_seen",
    "_ema_weights_in_model",
)


class _WholeFiles(keras.callbacks.ModelCheckpoint):  # type: ignore[misc]
    """Keras' ModelCheckpoint, but a file is replaced when the new one is complete: a kill leaves no half of one."""

    def _save_model(self, epoch: int, batch: int | None, logs: dict[str, Any]) -> None:
        path = Path(self._get_file_path(epoch, batch, logs))
        if not self._should_save_model(epoch, batch, logs, str(path)):
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".saving-{path.name}")  # its ending tells Keras the format
        save = self.model.save_weights if self.save_weights_only else self.model.save
        try:
            save(str(temporary), overwrite=True)
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def make(specs: Sequence[CallbackSpec], run_dir: Path) -> list[Any]:
    """Callbacks in the spec's order; relative file names lie below ``run_dir``.

    Raises:
        TrainingFailed: model_invalid with the field's path.
    """
    return [_made(index, spec, run_dir) for index, spec in enumerate(specs)]


def _made(index: int, spec: CallbackSpec, run_dir: Path) -> Any:
    field = f"fit.callbacks.{index}.params"
    params = spec.params.model_dump()
    try:
        match spec:
            case ModelCheckpoint():
                params["filepath"] = str(_inside(f"{field}.filepath", spec.params.filepath, run_dir))
                return _WholeFiles(**params)
            case CSVLogger():
                # run_files has taken the file back to what belongs to this attempt's past
                params |= {
                    "filename": str(_inside(f"{field}.filename", spec.params.filename, run_dir)),
                    "append": True,
                }
            case LearningRateScheduler():
                return keras.callbacks.LearningRateScheduler(
                    schedules.by_epoch(spec.params), verbose=spec.params.verbose
                )
        return getattr(keras.callbacks, spec.name)(**params)
    except (TypeError, ValueError) as error:
        raise model_invalid(field, f"{spec.name}: {shorten(str(error), 300)}") from error


def _inside(field: str, name: str, run_dir: Path) -> Path:
    """The spec has checked the name; this follows symbolic links too."""
    root = run_dir.resolve()
    path = (root / name).resolve()
    if not path.is_relative_to(root) or path == root:
        raise model_invalid(
            field, f"{name!r} lies outside the run's folder", "Give a relative name, such as best.keras."
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def check(
    specs: Sequence[CallbackSpec], callbacks: Sequence[Any], batch: Collection[str], epoch: Collection[str]
) -> None:
    """Refuse what would be a warning an epoch later: names of metrics that there will not be.

    Args:
        specs, callbacks: what was asked for and what was made of it, after ``set_model``.
        batch: names that are known at each step.
        epoch: names that are known at an epoch's end.

    Raises:
        TrainingFailed: model_invalid with the field's path.
    """
    for index, (spec, callback) in enumerate(zip(specs, callbacks, strict=True)):
        field = f"fit.callbacks.{index}.params"
        known: set[str] = {*epoch}
        rates = {"LearningRateScheduler", "ReduceLROnPlateau"}
        if spec.name == "ReduceLROnPlateau" or any(earlier.name in rates for earlier in specs[:index]):
            known.add("learning_rate")
        if isinstance(spec, ModelCheckpoint) and spec.params.save_freq != "epoch":
            known = {*batch}
        if isinstance(spec, ModelCheckpoint):
            here = {"epoch"} if spec.params.save_freq == "epoch" else {"epoch", "batch"}
            for name in sorted(spec.params.placeholders - here):
                _known(f"{field}.filepath", name, known, here)
        if hasattr(callback, "monitor") and not (
            isinstance(spec, ModelCheckpoint) and not spec.params.save_best_only
        ):
            _known(f"{field}.monitor", callback.monitor, known)
            _direct(field, spec.name, callback)
        elif hasattr(callback, "monitor"):
            callback.monitor_op = np.less  # never asked, but Keras insists on one at an epoch's end
        if isinstance(spec, SwapEMAWeights) and not getattr(callback.model.optimizer, "use_ema", False):
            raise model_invalid(
                f"fit.callbacks.{index}",
                "SwapEMAWeights needs averaged weights, which the optimizer does not keep",
                "Set use_ema to true in fit.optimizer.params.",
            )


def _known(field: str, name: str, known: Collection[str], more: Collection[str] = ()) -> None:
    if name not in known and name not in more:
        raise model_invalid(
            field,
            f"there will be no {name!r}; known here: {', '.join(sorted({*known, *more}))}",
            "Metrics are those of fit.metrics and loss, with val_ before it where there are validation rows.",
        )


def _direct(field: str, name: str, callback: Any) -> None:
    """Decide now whether more is better, which Keras would do at the first epoch's end."""
    try:
        callback._set_monitor_op()
    except ValueError as error:
        raise model_invalid(
            f"{field}.mode",
            f"{name} can't tell whether more or less of {callback.monitor!r} is better",
            "Set mode to 'min' or 'max'.",
        ) from error


def steps_to_next(callbacks: Sequence[Any]) -> int | None:
    """Steps until one of the callbacks must be called at that very step; None if none must."""
    found = [
        callback.save_freq - callback._batches_seen_since_last_saving
        for callback in callbacks
        if isinstance(getattr(callback, "save_freq", None), int)
    ]
    return max(1, min(found)) if found else None


def files_of(specs: Sequence[CallbackSpec], run_dir: Path) -> dict[str, int]:
    """The callbacks' files that there are now: bytes, or ``run_files.WHOLE`` for saved models."""
    found: dict[str, int] = {}
    root = run_dir.resolve()
    for spec in specs:
        if isinstance(spec, CSVLogger):
            found |= run_files.sizes(root, [(root / spec.params.filename).resolve()])
        elif isinstance(spec, ModelCheckpoint):
            # any name that the pattern can give
            pattern = re.sub(r"\\\{[^/]*?\\\}", r"[^/]*", re.escape(spec.params.filepath))
            fixed = spec.params.filepath.split("{", 1)[0]
            folder = root / fixed.rpartition("/")[0]
            for path in folder.rglob("*"):
                name = str(path.relative_to(root))
                if re.fullmatch(pattern, name) and not path.name.startswith(".") and path.is_file():
                    found[name] = run_files.WHOLE
    return found


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
