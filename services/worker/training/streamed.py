"""Training steps fed by a ``tf.data`` pipeline, for rows that should not be kept in memory as tensors.

The pipeline is: step numbers, each mapped to the rows of its batch (``data.order``: the same order as in memory, so
the weights come out the same), read by row number in parallel, prefetched. It is made anew for
each epoch, and after a resume it begins at the step where the lost attempt stood.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from services.worker.training.compiling import Compiled
from services.worker.training.data.order import Order
from services.worker.training.data.record import Array, Rows
from services.worker.training.steps import Logs, Steps
from services.worker.training.strategies.opened import OpenStrategy
from services.worker.training.strategies.slices import Slices
from shared.specs.dataset_options import PipelineSpec


def batches(
    rows: Rows, order: Order, epoch: int, start: int, pipeline: PipelineSpec, slices: Slices
) -> tf.data.Dataset:
    """(x [batch, ...], y [batch, ...]) of the steps from ``start`` to the epoch's end; the last may be short.

    Where replicas are in other processes, x has only this process' rows of each batch.
    """
    x_spec, y_spec = (tf.TensorSpec([None, *array.shape[1:]], array.dtype) for array in rows)

    def gather(here: Array, indices: Array) -> tuple[Array, Array]:
        return rows.read(here)[0], np.take(rows.y, indices, axis=0)

    def read(step: Any) -> tuple[Any, Any]:
        indices = order.indices(tf.constant(epoch, tf.int64), step)
        x, y = tf.numpy_function(
            gather, [slices.local(indices), indices], (x_spec.dtype, y_spec.dtype), stateful=False
        )
        return tf.ensure_shape(x, x_spec.shape), tf.ensure_shape(y, y_spec.shape)

    steps = tf.data.Dataset.range(start, order.steps)
    found = steps.map(
        read, num_parallel_calls=pipeline.parallel_reads or tf.data.AUTOTUNE, deterministic=True
    )
    return found if pipeline.prefetch == 0 else found.prefetch(pipeline.prefetch or tf.data.AUTOTUNE)


class StreamedSteps(Steps):
    """``Steps`` that hold no training rows. Calls of ``train`` within an epoch must follow one another."""

    pipeline = PipelineSpec()

    def __init__(
        self,
        model: keras.Model,
        rows: Rows,
        order: Order,
        compiled: Compiled,
        opened: OpenStrategy | None = None,
    ) -> None:
        super().__init__(model, Rows(rows.x[:1], rows.y[:1]), order, compiled, opened)
        self._rows = rows
        self._at: tuple[int, int] | None = None  # epoch and step that the open iterator gives next
        self._iterator: Any = None
        self._train = tf.function(self._many_streamed, autograph=False, reduce_retracing=True)

    def train(self, epoch: int, start: int, count: int) -> tuple[Array, Logs]:
        """See ``Steps.train``."""
        if self._at != (epoch, start):
            data = batches(self._rows, self.order, epoch, start, self.pipeline, self.slices)
            self._iterator = iter(data)
        losses, logs = self._train(self._iterator, tf.constant(count, tf.int64))
        self._at = (epoch, start + count)
        return losses.numpy(), {name: float(value) for name, value in logs.items()}

    def _many_streamed(self, iterator: Any, count: Any) -> Any:
        return self._repeat(count, lambda _done: next(iterator))
