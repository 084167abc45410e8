"""Learning rates that change: Keras' schedules by step, and rates by epoch from a table or one of these."""

from __future__ import annotations

import bisect
from collections.abc import Callable
from typing import Any

import keras

from shared.specs.callbacks import LearningRateSchedulerParams

ByEpoch = Callable[[int, float], float]


def by_step(schedule: Any) -> Any:
    """A ``keras.optimizers.schedules.LearningRateSchedule`` from the spec's, or from either of its JSON forms.

    Raises:
        ValueError, TypeError: Keras refuses it.
    """
    plain: dict[str, Any] = schedule if isinstance(schedule, dict) else schedule.model_dump()
    name = plain.get("class_name", plain.get("name"))
    params = plain["config"] if "config" in plain else plain.get("params", {})
    return keras.optimizers.schedules.deserialize({"class_name": name, "config": dict(params)})


def by_epoch(params: LearningRateSchedulerParams) -> ByEpoch:
    """What Keras' LearningRateScheduler calls with the epoch, from 0, and the rate until then.

    It depends on the epoch alone, so an epoch that is begun again after a crash gets the same rate.
    """
    rate = (
        _table(params.schedule) if isinstance(params.schedule, dict) else _schedule(by_step(params.schedule))
    )
    warmup = params.warmup_epochs

    def at(epoch: int, _now: float) -> float:
        if epoch < warmup:
            return rate(0) * (epoch + 1) / (warmup + 1)
        return rate(epoch - warmup)

    return at


def _table(table: dict[int, float]) -> Callable[[int], float]:
    epochs = sorted(table)
    return lambda epoch: float(table[epochs[bisect.bisect_right(epochs, epoch) - 1]])


def _schedule(schedule: Any) -> Callable[[int], float]:
    return lambda epoch: float(keras.ops.convert_to_numpy(schedule(epoch)))
