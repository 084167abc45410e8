"""Which epoch was the best so far, by one metric."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import keras

from services.worker.training.failures import model_invalid
from services.worker.training.steps import Logs
from shared.specs import BestSpec


@dataclass
class Best:
    """``note`` is what a checkpoint keeps of it: monitor, mode, value, epoch, file; None before one has ended."""

    monitor: str
    mode: str
    note: dict[str, Any] | None = None

    def improved(self, logs: Logs, epoch: int, file: str) -> bool:
        """Whether ``epoch`` (from 1) is better than all before; it is then noted, with the file it will be in."""
        value = logs[self.monitor]
        if not math.isfinite(value):
            return False
        known = self.note["value"] if self.note is not None else None
        if known is not None and not (value < known if self.mode == "min" else value > known):
            return False
        self.note = {
            "monitor": self.monitor,
            "mode": self.mode,
            "value": value,
            "epoch": epoch,
            "file": file,
        }
        return True


def make(spec: BestSpec | None, model: keras.Model, known: Collection[str]) -> Best | None:
    """What ``spec`` asks for.

    Args:
        known: names of metrics at an epoch's end.

    Raises:
        TrainingFailed: model_invalid, if there will be no such metric or its direction can't be told.
    """
    if spec is None:
        return None
    monitor = spec.monitor or ("val_loss" if "val_loss" in known else "loss")
    if monitor not in known:
        raise model_invalid(
            "checkpoint.best.monitor",
            f"there will be no {monitor!r}; known here: {', '.join(sorted(known))}",
        )
    return Best(monitor, _mode(spec, monitor, model))


def _mode(spec: BestSpec, monitor: str, model: keras.Model) -> str:
    if spec.mode != "auto":
        return spec.mode
    if monitor.removeprefix("val_") == "loss":
        return "min"
    asked = keras.callbacks.EarlyStopping(monitor)  # Keras knows each metric's direction
    asked.set_model(model)
    try:
        asked._set_monitor_op()
    except ValueError as error:
        raise model_invalid(
            "checkpoint.best.mode",
            f"it can't be told whether more or less of {monitor!r} is better",
            "Set mode to 'min' or 'max'.",
        ) from error
    return "min" if asked.monitor_op is keras.ops.less else "max"
