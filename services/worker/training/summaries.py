"""TensorBoard's records, built without ops where that is cheaper. The default writer takes them."""

from __future__ import annotations

import time
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from services.worker.training.data.record import Array

MAX_HISTOGRAM_VALUES = 2_000_000  # of larger weights every n-th value is counted


def _write(summary: Any, step: int) -> None:
    tf.summary.experimental.write_raw_pb(summary.SerializeToString(), step=step)


def scalar(tag: str, value: float, step: int) -> None:
    """One point of a curve."""
    from tensorboard.plugins.scalar.summary_v2 import scalar_pb

    _write(scalar_pb(tag, value), step)


def histogram(tag: str, values: Array, step: int) -> None:
    """The distribution of ``values``, any shape; those that are not finite are left out, for bins can't hold them."""
    from tensorboard.plugins.histogram.summary_v2 import histogram_pb

    flat = values.ravel()[:: 1 + values.size // MAX_HISTOGRAM_VALUES]
    flat = flat[np.isfinite(flat)]
    if flat.size:
        _write(histogram_pb(tag, flat), step)


def conceptual_graph(model: keras.Model) -> None:
    """Layers as boxes, from the model's own JSON."""
    metadata = tf.compat.v1.SummaryMetadata()
    metadata.plugin_data.plugin_name = "graph_keras_model"
    metadata.plugin_data.content = b"1"
    tf.summary.write(tag="keras", tensor=tf.constant(model.to_json(), tf.string), step=0, metadata=metadata)


def op_graph(model: keras.Model) -> None:
    """Ops of the forward pass."""
    source = model.inputs[0]
    spec = tf.TensorSpec((None, *source.shape[1:]), source.dtype, name=source.name)
    forward = tf.function(lambda x: model(x, training=False), autograph=False).get_concrete_function(spec)
    tf.summary.graph(forward.graph)


def session_start(settings: dict[str, Any], name: str) -> None:
    """A run of the HParams dashboard begins: its settings, each a bool, number or text."""
    from tensorboard.plugins.hparams.summary_v2 import hparams_pb

    _write(hparams_pb(settings, trial_id=name), 0)


def session_end(*, success: bool) -> None:
    """It has ended."""
    from tensorboard.plugins.hparams import api_pb2
    from tensorboard.plugins.hparams.summary import session_end_pb

    status = api_pb2.STATUS_SUCCESS if success else api_pb2.STATUS_FAILURE
    _write(session_end_pb(status, time.time()), 0)
