"""Layers that look beyond a row, made to see the global batch on every replica.

Batch normalisation takes its moments over all replicas' rows. Dropout and noise draw what one device would draw for
the whole batch and use their rows of it, so that what is learned does not depend on the number of replicas.

Keras has ``synchronized=True`` for batch normalisation, but its variance is E(x^2) - E(x)^2, which is off by much
where the mean is large against the deviation; and it has nothing for randomness, where replicas, whose generators are
equal, would all draw the same mask. Three private things are used here, held by tests: a batch normalisation's
``_moments``, a spatial dropout's ``_get_noise_shape``, and ``_flatten_layers``, which finds layers inside layers.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from services.worker.training.strategies import global_dropout

_SUM = tf.distribute.ReduceOp.SUM
# whose output for a row depends on that row, and on the row's number through the random numbers alone
_BY_ROW = (
    keras.layers.GaussianNoise,
    keras.layers.GaussianDropout,
    keras.layers.AlphaDropout,
    keras.layers.RandomBrightness,
    keras.layers.RandomContrast,
    keras.layers.RandomFlip,
    keras.layers.RandomRotation,
    keras.layers.RandomTranslation,
    keras.layers.RandomZoom,
)


@dataclass(frozen=True, slots=True)
class Slice:
    """A replica's rows of a global batch: ``rows`` from row ``begin``, of ``total`` (int64 scalars)."""

    begin: Any
    total: Any
    rows: Any


class _Here(threading.local):
    """Replicas are traced in threads of their own, which take turns."""

    slice: Slice | None = None


_here = _Here()


@contextmanager
def slice_of(begin: Any, total: Any, x: Any) -> Iterator[None]:
    """Within, layers know that ``x`` [rows, ...] begins at row ``begin`` of a global batch of ``total`` rows."""
    _here.slice = Slice(begin, total, tf.shape(x, tf.int64)[0])
    try:
        yield
    finally:
        _here.slice = None


def adapt(model: keras.Model) -> list[str]:
    """Change the layers of ``model`` in place; outside ``slice_of`` they work as before.

    Returns:
        Names of the layers whose random numbers can't be made those of one device.
    """
    own_randomness = []
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, keras.layers.BatchNormalization):
            layer._moments = functools.partial(_moments, layer, layer._moments)
        elif isinstance(layer, keras.layers.Dropout):
            layer.call = functools.partial(_dropout, layer, layer.call)
        elif isinstance(layer, _BY_ROW):
            layer.call = functools.partial(_padded, layer.call)
        elif hasattr(layer, "get_dropout_mask") and hasattr(layer, "seed_generator"):  # a cell of an RNN
            for name in ("get_dropout_mask", "get_recurrent_dropout_mask"):
                setattr(layer, name, functools.partial(_mask, getattr(layer, name)))
        elif getattr(layer, "seed_generator", None) is not None and not isinstance(layer, keras.layers.RNN):
            own_randomness.append(layer.name)
    return own_randomness


def _moments(layer: Any, original: Any, inputs: Any, mask: Any) -> Any:
    """Mean and variance [channels] over the rows of all replicas, in two passes as ``tf.nn.moments`` does it."""
    context = tf.distribute.get_replica_context()
    if _here.slice is None or context is None:
        return original(inputs, mask)
    axis = layer.axis % len(inputs.shape)
    axes = [number for number in range(len(inputs.shape)) if number != axis]
    present = tf.ones_like(inputs) if mask is None else _as_weights(mask, inputs)
    count, total = context.all_reduce(
        _SUM,
        [tf.reduce_sum(present, axes, keepdims=True), tf.reduce_sum(inputs * present, axes, keepdims=True)],
    )
    if mask is not None:
        count += keras.config.epsilon()  # as Keras does it
    mean = total / count
    off = tf.math.squared_difference(inputs, tf.stop_gradient(mean)) * present
    variance = context.all_reduce(_SUM, tf.reduce_sum(off, axes, keepdims=True)) / count
    return tf.squeeze(mean, axes), tf.squeeze(variance, axes)


def _as_weights(mask: Any, inputs: Any) -> Any:
    return tf.broadcast_to(tf.cast(mask, inputs.dtype)[..., tf.newaxis], tf.shape(inputs))


def _dropout(layer: Any, original: Any, inputs: Any, training: bool = False) -> Any:
    place = _here.slice
    if place is None or not training or not layer.rate:
        return original(inputs, training=training)
    shape = layer.noise_shape
    if hasattr(layer, "_get_noise_shape"):  # SpatialDropout; the rows that it sees are a slice's
        shape = (None, *layer._get_noise_shape(inputs)[1:])
    leading = _leading(inputs, place)
    return global_dropout.dropout(
        inputs, layer.rate, shape, layer.seed_generator.next(), place.begin * leading
    )


def _padded(original: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
    """Run ``original`` on a batch of global size in which ``inputs`` has its place, and take its rows again."""
    place = _here.slice
    if place is None:
        return original(inputs, *args, **kwargs)
    leading = _leading(inputs, place)
    whole = _in_place(inputs, place, leading)
    begin = place.begin * leading
    return original(whole, *args, **kwargs)[begin : begin + place.rows * leading]


def _mask(original: Any, step_input: Any) -> Any:
    place = _here.slice
    if place is None:
        return original(step_input)
    leading = _leading(step_input, place)
    masks = original(_in_place(step_input, place, leading))
    begin = place.begin * leading
    return tf.nest.map_structure(lambda mask: mask[begin : begin + place.rows * leading], masks)


def _leading(inputs: Any, place: Slice) -> Any:
    """How many entries of the first axis belong to a row; more than one where a layer folds time into it."""
    return tf.shape(inputs, tf.int64)[0] // place.rows


def _in_place(inputs: Any, place: Slice, leading: Any) -> Any:
    after = (place.total - place.begin - place.rows) * leading
    rest = [[0, 0]] * (len(inputs.shape) - 1)
    return tf.pad(inputs, [[place.begin * leading, after], *rest])
