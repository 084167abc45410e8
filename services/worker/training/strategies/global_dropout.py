"""A slice of the dropout mask that one device would draw for the whole batch, without drawing the rest of it.

Random numbers are Philox' (Salmon et al. 2011): a block of them is a function of key and counter, so the ones from
any place on can be had by moving the counter. Keras draws float32 and the 16-bit types 4 to a block, float64 2.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

_PHILOX = 1


def dropout(inputs: Any, rate: float, noise_shape: Any, seed: Any, begin: Any) -> Any:
    """``keras.random.dropout`` of a batch, for the rows from ``begin`` (int64 scalar) that ``inputs`` has.

    Args:
        noise_shape: of the whole batch's mask, by axis; None for an axis, or in all, is the inputs' own.
        seed: int [2], as ``SeedGenerator.next`` gives it.
    """
    if rate == 1:
        return tf.zeros_like(inputs)
    shape = tf.shape(inputs, tf.int64)
    if noise_shape is None:
        noise = shape
    else:
        noise = tf.stack(
            [
                shape[axis] if size is None else tf.cast(size, tf.int64)
                for axis, size in enumerate(noise_shape)
            ]
        )
    shared = noise_shape is not None and noise_shape[0] == 1  # one mask for all rows
    first = 0 if shared else begin * tf.reduce_prod(noise[1:])
    numbers = tf.reshape(_uniform(tf.reduce_prod(noise), first, seed, inputs.dtype), noise)
    kept = numbers >= tf.cast(rate, inputs.dtype)
    scaled = inputs * tf.cast(1 / (1 - rate), inputs.dtype)
    return tf.ensure_shape(tf.where(kept, scaled, tf.zeros([], inputs.dtype)), inputs.shape)


def _uniform(count: Any, first: Any, seed: Any, dtype: Any) -> Any:
    """``count`` numbers in [0, 1) from the ``first`` on, of those that ``seed`` stands for."""
    block = 2 if dtype == tf.float64 else 4
    # as keras.random makes it fit the stateless ops
    small = tf.cast(tf.math.floormod(seed, tf.int32.max - 1), tf.int32)
    drawn = tf.raw_ops.StatelessRandomGetKeyCounter(seed=small)
    first = tf.cast(first, tf.int64)
    skip = tf.cast(first // block, tf.uint64)
    before = first % block
    numbers = tf.raw_ops.StatelessRandomUniformV2(
        shape=tf.expand_dims(before + count, 0),
        key=drawn.key,
        counter=tf.stack([drawn.counter[0] + skip, drawn.counter[1]]),
        alg=_PHILOX,
        dtype=dtype,
    )
    return numbers[before:]
