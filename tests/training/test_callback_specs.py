"""What may be asked of callbacks and schedules is what the installed Keras takes, with Keras' own defaults."""

from __future__ import annotations

import inspect
from typing import Any, get_args

import keras
import numpy as np
import pytest
from pydantic_core import PydanticUndefined

from services.worker.training import schedules
from shared.specs import callbacks, schedule
from shared.specs.callbacks import LearningRateSchedulerParams

CALLBACKS = get_args(callbacks.AnyCallback)
SCHEDULES = [
    schedule.CosineDecay, schedule.CosineDecayRestarts, schedule.ExponentialDecay, schedule.InverseTimeDecay,
    schedule.PiecewiseConstantDecay, schedule.PolynomialDecay,
]  # fmt: skip


def arguments(keras_class: Any) -> dict[str, Any]:
    found = inspect.signature(keras_class).parameters.values()
    return {one.name: one.default for one in found if one.kind is not one.VAR_KEYWORD and one.name != "name"}


@pytest.mark.parametrize("spec", [*CALLBACKS, *SCHEDULES], ids=lambda spec: spec.__name__)
def test_arguments_are_those_of_keras(spec: Any) -> None:
    module = keras.callbacks if spec in CALLBACKS else keras.optimizers.schedules
    theirs = arguments(getattr(module, spec.__name__))
    ours = spec.model_fields["params"].annotation.model_fields
    assert set(ours) - {"warmup_epochs"} == set(theirs)
    for name, default in theirs.items():
        if default is inspect.Parameter.empty:
            assert ours[name].default is PydanticUndefined, name
        else:
            assert ours[name].default == default, name


def test_every_schedule_of_keras_may_be_named() -> None:
    known = {name for name in dir(keras.optimizers.schedules) if name[0].isupper()} - {"LearningRateSchedule"}
    assert {spec.__name__ for spec in SCHEDULES} == known


def test_rates_by_epoch() -> None:
    cosine = {"name": "CosineDecay", "params": {"initial_learning_rate": 0.1, "decay_steps": 10}}
    for asked in (cosine, {"class_name": "CosineDecay", "config": cosine["params"]}):
        rate = schedules.by_epoch(LearningRateSchedulerParams.model_validate({"schedule": asked}))
        expected = [0.05 * (1 + np.cos(np.pi * epoch / 10)) for epoch in range(11)]
        np.testing.assert_allclose([rate(epoch, 7.0) for epoch in range(11)], expected, atol=1e-7)
    table = {"schedule": {"0": 0.4, "3": 0.1}, "warmup_epochs": 3}
    rate = schedules.by_epoch(LearningRateSchedulerParams.model_validate(table))
    assert [round(rate(epoch, 0.0), 6) for epoch in range(8)] == [0.1, 0.2, 0.3, 0.4, 0.4, 0.4, 0.1, 0.1]
