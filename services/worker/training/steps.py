"""The compiled training and evaluation steps.

One call runs many steps inside the runtime and returns each step's loss, so that Python is entered a few times a
second, whatever a step costs. ``Model.fit`` with ``steps_per_execution`` does the same with a fixed number and an
iterator that lives outside; here the number is an argument, so a checkpoint, a stop or an epoch's end never has to
wait for it, and rows are gathered inside (see ``data.order``). Only public Keras is used: ``compute_loss``,
``compute_metrics``, ``apply_gradients``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from services.worker.training.compiling import Compiled
from services.worker.training.data.order import Order
from services.worker.training.data.record import Array, RowArray, RowFile, Rows
from services.worker.training.failures import TrainingFailed, shorten

Logs = dict[str, float]
_ALIGNMENT = 64  # bytes; Eigen's largest


def as_tensor(array: RowArray) -> Any:
    """``array`` as a tensor: shared with it, not copied, where that is possible. Rows on disk stay as they are.

    It is for arrays on a CPU that lie as TensorFlow's kernels want them, as memory-mapped .npy files do; a tensor
    that is not aligned ends the process.
    """
    if isinstance(array, RowFile):
        return array
    shareable = array.flags.writeable and array.flags.c_contiguous and array.ctypes.data % _ALIGNMENT == 0
    if shareable and not tf.config.list_logical_devices("GPU"):
        return tf.experimental.dlpack.from_dlpack(array.__dlpack__())
    return tf.constant(array)


class Steps:
    """Steps of one model on one set of training rows. Metrics are running means since ``reset``."""

    def __init__(self, model: keras.Model, rows: Rows, order: Order, compiled: Compiled) -> None:
        self.model = model
        self.order = order
        self._compiled = compiled
        self._units = int(model.output_shape[1])
        self._loss = keras.metrics.Mean(name="loss")
        self._x, self._y = as_tensor(rows.x), as_tensor(rows.y)
        self._create_metrics()
        self._one = self._one_step
        if model.jit_compile is True:
            self._one = tf.function(self._one_step, jit_compile=True, autograph=False)
        self._train = tf.function(self._many_steps, autograph=False)
        self._test = tf.function(self._many_tests, autograph=False, reduce_retracing=True)

    @property
    def metric_variables(self) -> list[Any]:
        """State of the running means, part of a checkpoint so that a resumed epoch ends with the same numbers."""
        return [*self._loss.variables, *(v for metric in self.model.metrics for v in metric.variables)]

    def train(self, epoch: int, start: int, count: int) -> tuple[Array, Logs]:
        """Run steps ``start`` to ``start + count`` of ``epoch``: the loss of each, float32 [count], and the means."""
        losses, logs = self._train(*(tf.constant(value, tf.int64) for value in (epoch, start, count)))
        return losses.numpy(), {name: float(value) for name, value in logs.items()}

    def test(self, tensors: tuple[Any, Any], start: int, count: int) -> Logs:
        """Evaluate ``count`` batches from batch ``start`` of (x, y); the means since ``reset``."""
        logs = self._test(*tensors, tf.constant(start, tf.int64), tf.constant(count, tf.int64))
        return {name: float(value) for name, value in logs.items()}

    def current(self) -> Logs:
        """The running means as they stand."""
        return {name: float(value) for name, value in self._results(self._loss).items()}

    def reset(self) -> None:
        """Begin new running means."""
        self.model.reset_metrics()
        self._loss.reset_state()

    def _create_metrics(self) -> None:
        """Make loss and metrics create their variables now: made while tracing, they would cost a second trace."""
        outputs = tf.zeros([1, self._units], tf.float32)
        targets = self._encode(self._y[:1])
        try:
            self.model.compute_loss(x=None, y=targets, y_pred=outputs, training=False)
            self.model.compute_metrics(None, targets, outputs, None)
        except (ValueError, TypeError, tf.errors.InvalidArgumentError) as error:
            raise TrainingFailed(
                "shape_mismatch",
                f"loss or metrics do not go with {self._units} outputs and labels {list(targets.shape)}: "
                f"{shorten(str(error), 400)}",
                "Leave fit.loss and fit.metrics out to have them chosen.",
            ) from error
        self.reset()

    def _encode(self, y: Any) -> Any:
        labels = self._compiled.labels
        if labels == "one_hot":
            return tf.one_hot(y, self._units)
        if labels == "column" or (labels == "numbers" and len(y.shape) == 1):
            return tf.cast(y, tf.float32)[:, tf.newaxis]
        return y

    def _many_steps(self, epoch: Any, start: Any, count: Any) -> Any:
        def batch(done: Any) -> tuple[Any, Any]:
            rows = self.order.indices(epoch, start + done)
            return tf.gather(self._x, rows), tf.gather(self._y, rows)

        return self._repeat(count, batch)

    def _repeat(self, count: Any, batch: Callable[[Any], tuple[Any, Any]]) -> Any:
        """``count`` steps (int64 scalar) on the batches that ``batch`` gives for 0, 1, ...: losses and means."""

        def body(done: Any, losses: Any) -> tuple[Any, Any]:
            x, y = batch(done)
            loss = self._one(x, self._encode(y))
            return done + 1, losses.write(tf.cast(done, tf.int32), loss)

        losses = tf.TensorArray(tf.float32, size=tf.cast(count, tf.int32), element_shape=())
        _, losses = tf.while_loop(
            lambda done, _: done < count, body, (tf.constant(0, tf.int64), losses), parallel_iterations=1
        )
        return losses.stack(), self._results(self._loss)

    def _one_step(self, x: Any, y: Any) -> Any:
        model = self.model
        with tf.GradientTape() as tape:
            outputs = model(x, training=True)
            loss = model.compute_loss(x=x, y=y, y_pred=outputs, training=True)
            scaled = model.optimizer.scale_loss(loss)
        weights = model.trainable_variables
        if weights:
            model.optimizer.apply_gradients(zip(tape.gradient(scaled, weights), weights, strict=True))
        self._loss.update_state(loss, sample_weight=tf.cast(tf.shape(x)[0], tf.float32))
        model.compute_metrics(x, y, outputs, None)
        return tf.cast(loss, tf.float32)

    def _many_tests(self, x: Any, y: Any, start: Any, count: Any) -> Any:
        batch = self.order.batch
        total = tf.shape(x, tf.int64)[0]

        def body(done: Any) -> tuple[Any]:
            begin = (start + done) * batch
            end = tf.minimum(begin + batch, total)
            part, targets = x[begin:end], self._encode(y[begin:end])
            outputs = self.model(part, training=False)
            loss = self.model.compute_loss(x=part, y=targets, y_pred=outputs, training=False)
            self._loss.update_state(loss, sample_weight=tf.cast(end - begin, tf.float32))
            self.model.compute_metrics(part, targets, outputs, None)
            return (done + 1,)

        tf.while_loop(lambda done: done < count, body, (tf.constant(0, tf.int64),), parallel_iterations=1)
        return self._results(self._loss)

    def _results(self, loss: keras.metrics.Mean) -> dict[str, Any]:
        # Keras' own loss mean is fed by Model.train_step only; ours takes its place
        flat = {
            name: value for name, value in self.model.get_metrics_result().items() if len(value.shape) == 0
        }
        return {**flat, "loss": loss.result()}


def first_bad(losses: Array) -> int | None:
    """Index of the first loss that is NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(losses))
    return int(bad[0]) if len(bad) else None
