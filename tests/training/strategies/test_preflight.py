"""Replicas that really compute something else are found out before training; all others are left as they were."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from services.worker.training import preflight
from services.worker.training.failures import TrainingFailed
from services.worker.training.state import State
from services.worker.training.steps import Steps
from services.worker.training.strategies import mirrored
from services.worker.training.strategies.opened import OpenStrategy
from services.worker.training.streamed import StreamedSteps
from shared.specs import MirroredStrategy
from tests.training.strategies.equality import IMAGES, prepared

DEVICES = ["CPU:0", "CPU:1"]


def two() -> OpenStrategy:
    return mirrored.open(MirroredStrategy(devices=DEVICES))


def judged(opened: OpenStrategy, model: Callable[[], keras.Model]) -> dict[str, Any]:
    steps = prepared(opened, model=model(), metrics=["accuracy"])
    return preflight.check(steps, opened, on_one_device(steps))


def on_one_device(steps: Steps) -> Callable[[keras.Model], Steps]:
    return lambda copy: StreamedSteps(copy, IMAGES.train, steps.order, steps.step._compiled)


class Broken(tf.distribute.ReductionToOneDevice):  # type: ignore[misc]
    """Adds up nothing but the first replica's part, ``times`` over."""

    def __init__(self, times: float) -> None:
        super().__init__()
        self._times = times

    def reduce_implementation(self, reduce_op: Any, per_replica: Any, destinations: Any, options: Any) -> Any:
        parts = tf.nest.flatten(per_replica, expand_composites=True)
        if parts[0].shape.rank == 2:  # a dense layer's gradient
            parts = [parts[0] * self._times, *(tf.zeros_like(part) for part in parts[1:])]
            per_replica = tf.nest.pack_sequence_as(per_replica, parts, expand_composites=True)
        return super().reduce_implementation(reduce_op, per_replica, destinations, options)


def dense(*layers: keras.layers.Layer) -> keras.Model:
    return keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), *layers, keras.layers.Dense(10)])


@keras.saving.register_keras_serializable("test")
class Biased(keras.layers.Layer):  # type: ignore[misc]
    """Does something else on the second replica."""

    def call(self, inputs: Any) -> Any:
        context = tf.distribute.get_replica_context()
        if context is None:  # while the model is made
            return inputs
        return inputs * (1 + 0.1 * tf.cast(context.replica_id_in_sync_group, tf.float32))


def test_sound_replicas_pass_and_everything_is_given_back() -> None:
    opened = two()
    steps = prepared(opened)
    state = State(steps.model, steps, {})
    before = state.take()
    facts = preflight.check(steps, opened, on_one_device(steps))
    assert facts["result"] == "passed"
    assert facts["steps"] == 3
    assert facts["seconds"] > 0
    assert facts["differences"]["loss"] < 1e-5
    assert facts["differences"]["update"] < 1e-3
    after = state.take()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


def test_a_reduction_that_loses_a_replica_is_found() -> None:
    broken = tf.distribute.MirroredStrategy(DEVICES, cross_device_ops=Broken(1.0))
    with pytest.raises(TrainingFailed, match="weight updates by") as caught:
        judged(OpenStrategy("mirrored", broken, tuple(DEVICES)), dense)
    assert caught.value.code == "preflight_mismatch"
    assert "cross_device_ops" in str(caught.value.hint)


def test_a_reduction_that_returns_nan_is_found() -> None:
    broken = tf.distribute.MirroredStrategy(DEVICES, cross_device_ops=Broken(float("nan")))
    with pytest.raises(TrainingFailed, match="NaN"):
        judged(OpenStrategy("mirrored", broken, tuple(DEVICES)), dense)


def test_a_layer_that_depends_on_the_replica_is_found() -> None:
    with pytest.raises(TrainingFailed, match="losses differ by"):
        judged(two(), lambda: dense(Biased()))


def test_layers_with_randomness_of_their_own_are_judged_by_nan_alone() -> None:
    def model() -> keras.Model:
        inputs = keras.Input((8, 8, 1))
        flat = keras.layers.Reshape((8, 8))(inputs)
        attended = keras.layers.Attention(dropout=0.5, seed=3)([flat, flat])
        outputs = keras.layers.Dense(10)(keras.layers.Flatten()(attended))
        return keras.Model(inputs, outputs)

    facts = judged(two(), model)
    assert (facts["result"], facts["tolerance"]) == ("passed", {})
