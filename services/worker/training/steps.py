"""The compiled training and evaluation steps.

One call runs many steps inside the runtime and returns each step's loss, so that Python is entered a few times a
second, whatever a step costs. ``Model.fit`` with ``steps_per_execution`` does the same with a fixed number and an
iterator that lives outside; here the number is an argument, so a checkpoint, a stop or an epoch's end never has to
wait for it, and rows are gathered inside (see ``data.order``). What a step is, is said in ``step``; on how many
replicas it runs, in ``strategies``.
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
from services.worker.training.step import Step
from services.worker.training.strategies.opened import OpenStrategy
from services.worker.training.strategies.replicated import ReplicatedStep

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
    """Steps of one model on one set of training rows. Metrics are running means since ``reset``.

    ``order`` is one of global batches. Create it outside the strategy's scope, with a model created inside.
    """

    def __init__(
        self,
        model: keras.Model,
        rows: Rows,
        order: Order,
        compiled: Compiled,
        opened: OpenStrategy | None = None,
    ) -> None:
        opened = opened or OpenStrategy("default")
        self.model = model
        self.order = order
        self.ends_at_bad_loss = (
            False  # set before the first step; on a GPU it costs a look at each step's loss
        )
        self.agree = opened.agree
        self.slices = opened.slices
        self.step = (
            Step(model, compiled) if opened.strategy is None else ReplicatedStep(model, compiled, opened)
        )
        with tf.device("CPU:0" if opened.replicas > 1 else None):  # each replica is sent its rows
            self._x, self._y = as_tensor(rows.x), as_tensor(rows.y)
        self.step.create_metrics(self._y[:1])
        self._train = tf.function(self._many_steps, autograph=False)
        self._test = tf.function(self._many_tests, autograph=False, reduce_retracing=True)

    @property
    def metric_variables(self) -> list[Any]:
        """State of the running means, part of a checkpoint."""
        return self.step.metric_variables

    def train(self, epoch: int, start: int, count: int) -> tuple[Array, Logs]:
        """Run steps ``start`` to ``start + count`` of ``epoch``: the loss of each, float32 [count], and the means.

        With ``ends_at_bad_loss`` they end at one that is not finite, which is the last one given.
        """
        losses, logs = self._train(*(tf.constant(value, tf.int64) for value in (epoch, start, count)))
        return losses.numpy(), {name: float(value) for name, value in logs.items()}

    def test(self, tensors: tuple[Any, Any], start: int, count: int) -> Logs:
        """Evaluate ``count`` batches from batch ``start`` of (x, y); the means since ``reset``."""
        logs = self._test(*tensors, tf.constant(start, tf.int64), tf.constant(count, tf.int64))
        return {name: float(value) for name, value in logs.items()}

    def current(self) -> Logs:
        """The running means as they stand."""
        return {name: float(value) for name, value in self.step.results().items()}

    def reset(self) -> None:
        """Begin new running means."""
        self.step.reset()

    def _many_steps(self, epoch: Any, start: Any, count: Any) -> Any:
        def batch(done: Any) -> tuple[Any, Any]:
            rows = self.order.indices(epoch, start + done)
            return tf.gather(self._x, self.slices.local(rows)), tf.gather(self._y, rows)

        return self._repeat(count, batch)

    def _repeat(self, count: Any, batch: Callable[[Any], tuple[Any, Any]]) -> Any:
        """``count`` steps (int64 scalar) on the batches that ``batch`` gives for 0, 1, ...: losses and means."""

        def go_on(done: Any, loss: Any, _losses: Any) -> Any:
            more = done < count
            return tf.logical_and(more, tf.math.is_finite(loss)) if self.ends_at_bad_loss else more

        def body(done: Any, _loss: Any, losses: Any) -> tuple[Any, Any, Any]:
            loss = self.step.train(*batch(done))
            return done + 1, loss, losses.write(tf.cast(done, tf.int32), loss)

        losses = tf.TensorArray(tf.float32, size=tf.cast(count, tf.int32), element_shape=())
        begin = (tf.constant(0, tf.int64), tf.constant(0.0), losses)
        done, _, losses = tf.while_loop(go_on, body, begin, parallel_iterations=1)
        return losses.stack()[:done], self.step.results()

    def _many_tests(self, x: Any, y: Any, start: Any, count: Any) -> Any:
        batch = self.order.batch
        total = tf.shape(x, tf.int64)[0]

        def body(done: Any) -> tuple[Any]:
            begin = (start + done) * batch
            end = tf.minimum(begin + batch, total)
            first, last = (
                (0, end - begin) if self.slices.everything_here else self.slices.local_range(end - begin)
            )
            self.step.test(x[begin + first : begin + last], y[begin:end])
            return (done + 1,)

        tf.while_loop(lambda done: done < count, body, (tf.constant(0, tf.int64),), parallel_iterations=1)
        return self.step.results()


def first_bad(losses: Array) -> int | None:
    """Index of the first loss that is NaN or infinite."""
    bad = np.flatnonzero(~np.isfinite(losses))
    return int(bad[0]) if len(bad) else None
