"""The order in which rows are visited: a pure function of (seed, epoch, step).

No state is kept, so a resumed attempt sees exactly the rows that an uninterrupted one would have seen, from the
middle of an epoch on. Rows are gathered a batch at a time inside the compiled step, from tensors in memory: there is
no per-element pipeline to wait for, and nothing to hand over between threads.

The last batch of an epoch is short when the batch size does not divide the rows; it is kept, as Keras does. With
``steps_per_epoch`` set, epochs are windows over an endless stream of passes, each pass in an order of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

_PREFIX = 498247692  # what index_shuffle puts before a seed of two numbers


@dataclass(frozen=True, slots=True)
class Order:
    """Which rows make up a step.

    Attributes:
        rows: how many there are.
        batch: rows per step.
        seed: of the shuffle.
        shuffle: False visits them as they lie.
        steps_per_epoch: None for one pass over the rows.
    """

    rows: int
    batch: int
    seed: int = 0
    shuffle: bool = True
    steps_per_epoch: int | None = None

    @property
    def steps(self) -> int:
        """Steps in an epoch."""
        return self.steps_per_epoch or -(-self.rows // self.batch)

    def indices(self, epoch: Any, step: Any) -> Any:
        """Row numbers int64 [batch or fewer] of step ``step`` (int64 scalar) of epoch ``epoch`` (int64 scalar)."""
        if self.steps_per_epoch is None:
            start = step * self.batch
            position = tf.range(start, tf.minimum(start + self.batch, self.rows))
            return self._shuffled(position, tf.stack([tf.constant(self.seed, tf.int64), epoch]))
        start = (epoch * self.steps_per_epoch + step) * self.batch
        stream = tf.range(start, start + self.batch)
        passes = stream // self.rows
        position = stream % self.rows
        if not self.shuffle or self.rows == 1:
            return position
        # index_shuffle itself pads a matrix of seeds on the wrong side (TensorFlow 2.21); this is the op below it
        seed = tf.stack(
            [tf.fill([self.batch], tf.constant(_PREFIX, tf.int64)), passes * 0 + self.seed, passes], axis=1
        )
        return tf.raw_ops.RandomIndexShuffle(
            index=position,
            seed=tf.cast(seed, tf.uint32),
            max_index=tf.constant(self.rows - 1, tf.int64),
            rounds=4,
        )

    def _shuffled(self, position: Any, seed: Any) -> Any:
        if not self.shuffle or self.rows == 1:
            return position
        return tf.random.experimental.index_shuffle(
            position, seed=tf.cast(seed, tf.uint32), max_index=tf.constant(self.rows - 1, tf.int64)
        )
