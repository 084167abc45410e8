"""Training steps of parameter_server: the chief's side.

One step is one closure: the chief reads the batch and schedules a function on it; some worker reads the variables,
computes, and applies its gradient to them. Its loss and outputs come back to the chief, which computes the metrics in
the order of the steps. So every row of an epoch is counted once, also when a worker dies and its closure is run again
by another, and a metric is never updated by two workers at once. (Keras' ``assign_add`` is a read and a write: with
two workers at it, 8,384 of 12,800 samples were counted.)
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from services.worker.training.compiling import Compiled
from services.worker.training.data.order import Order
from services.worker.training.data.record import Array, Rows
from services.worker.training.step import Step
from services.worker.training.steps import Logs, Steps, as_tensor, first_bad
from services.worker.training.strategies.parameter_server import Coordinated


class CoordinatedSteps(Steps):
    """``Steps`` whose work is done by the workers of a cluster; every call returns when all its steps are done."""

    def __init__(
        self, model: keras.Model, rows: Rows, order: Order, compiled: Compiled, opened: Coordinated
    ) -> None:
        self.model, self.order = model, order
        self._rows = rows
        self._strategy: Any = opened.strategy
        self._coordinator = opened.coordinator
        self.agree = opened.agree
        self.ends_at_bad_loss = False
        self.step = Step(model, compiled)  # outside the strategy's scope: metrics are the chief's own
        self.step.create_metrics(as_tensor(rows.y[:1]))
        _count_atomically(model.optimizer)
        self._count_trained = tf.function(self._counted_trained, autograph=False, reduce_retracing=True)
        self._count_tested = tf.function(self._counted_tested, autograph=False, reduce_retracing=True)
        self._train_one = tf.function(self._train_closure, autograph=False, reduce_retracing=True)
        self._test_one = tf.function(self._test_closure, autograph=False, reduce_retracing=True)

    def train(self, epoch: int, start: int, count: int) -> tuple[Array, Logs]:
        """See ``Steps.train``. Steps overlap: what is not finite may show a few steps late."""
        number = tf.constant(epoch, tf.int64)
        batches = (
            self._rows.read(self.order.indices(number, tf.constant(step, tf.int64)).numpy())
            for step in range(start, start + count)
        )
        losses = np.asarray(self._run(self._train_one, self._count_trained, batches), np.float32)
        bad = first_bad(losses) if self.ends_at_bad_loss else None
        return losses if bad is None else losses[: bad + 1], self.current()

    def test(self, tensors: tuple[Any, Any], start: int, count: int) -> Logs:
        """See ``Steps.test``."""
        x, y = tensors
        size = self.order.batch
        places = (slice(number * size, (number + 1) * size) for number in range(start, start + count))
        self._run(self._test_one, self._count_tested, ((x[place], y[place]) for place in places))
        return self.current()

    def _run(self, function: Any, counted: Any, batches: Iterable[tuple[Any, Any]]) -> list[float]:
        """Losses in the order of ``batches``, pairs of rows and labels."""
        scheduled = []
        for rows, labels in batches:
            x, y = tf.convert_to_tensor(rows), tf.convert_to_tensor(labels)
            scheduled.append((y, self._coordinator.schedule(function, args=(x, y))))
        self._coordinator.join()
        losses = []
        for y, result in scheduled:
            loss, outputs = result.fetch()
            counted(y, tf.constant(loss), tf.constant(outputs))
            losses.append(float(loss))
        return losses

    def _counted_trained(self, y: Any, loss: Any, outputs: Any) -> None:
        self.step._count(loss, None, self.step._weighted(y)[0], outputs)

    def _counted_tested(self, y: Any, loss: Any, outputs: Any) -> None:
        self.step._count(loss, None, self.step._targets(y), outputs)

    def _train_closure(self, x: Any, y: Any) -> tuple[Any, Any]:
        return self._in_replica(lambda x, y: self.step._gradient_step(x, *self.step._weighted(y)), x, y)

    def _test_closure(self, x: Any, y: Any) -> tuple[Any, Any]:
        def test(x: Any, y: Any) -> tuple[Any, Any]:
            outputs = self.model(x, training=False)
            loss = self.model.compute_loss(x=x, y=self.step._targets(y), y_pred=outputs, training=False)
            return loss, outputs

        return self._in_replica(test, x, y)

    def _in_replica(self, function: Any, x: Any, y: Any) -> tuple[Any, Any]:
        loss, outputs = self._strategy.run(function, args=(x, y))
        return tf.cast(loss, tf.float32), outputs


def _count_atomically(optimizer: Any) -> None:
    """Workers count steps at the same time: the variable itself adds, instead of Keras reading and writing it."""
    while optimizer is not None:
        counter = optimizer.iterations
        counter.assign_add = functools.partial(_added, counter)
        optimizer = getattr(optimizer, "inner_optimizer", None)


def _added(counter: Any, value: Any) -> Any:
    counter.value.assign_add(tf.cast(value, counter.dtype))
    return counter
