"""A checkpoint of variables whose copies differ from replica to replica until they are read."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from services.worker.training.state import State


def state_of(*variables: Any) -> State:
    model: Any = SimpleNamespace(variables=[], optimizer=keras.optimizers.SGD())
    steps: Any = SimpleNamespace(metric_variables=variables)
    return State(model, steps, {})


def test_each_replicas_copy_comes_back_and_elsewhere_what_a_reader_sees() -> None:
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    on_read = tf.VariableSynchronization.ON_READ
    with strategy.scope():
        total = tf.Variable(
            0.0, synchronization=on_read, aggregation=tf.VariableAggregation.SUM, trainable=False
        )
        mean = tf.Variable(
            0.0, synchronization=on_read, aggregation=tf.VariableAggregation.MEAN, trainable=False
        )

    def step() -> None:
        number = tf.distribute.get_replica_context().replica_id_in_sync_group
        total.assign_add(1.5 + tf.cast(number, tf.float32))
        mean.assign_add(1.0 + tf.cast(number, tf.float32))

    strategy.run(step)
    state = state_of(total, mean)
    taken = state.take()
    total.assign(0.0)
    mean.assign(0.0)
    state.give_back(taken)
    assert [copy.numpy() for copy in (*total.values, *mean.values)] == [1.5, 2.5, 1.0, 2.0]
    assert (float(taken["metrics/00000"]), float(taken["metrics/00001"])) == (4.0, 1.5)

    alone = state_of(tf.Variable(0.0), tf.Variable(0.0))
    alone.give_back(taken)
    assert alone.take()["metrics/00000"] == np.float32(4.0)
    assert alone.take()["metrics/00001"] == np.float32(1.5)
    state.give_back(alone.take() | {key: taken[key] for key in taken if key.startswith("optimizer")})
    assert [copy.numpy() for copy in (*total.values, *mean.values)] == [2.0, 2.0, 1.5, 1.5]
