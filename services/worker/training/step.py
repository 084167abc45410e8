"""One global batch through the model: a training step or an evaluation step, with its loss and metrics.

Only public Keras is used: ``compute_loss``, ``compute_metrics``, ``apply_gradients``. Here is one replica;
``strategies.replicated`` runs the same on several.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from services.worker.training.compiling import Compiled
from services.worker.training.failures import TrainingFailed, shorten


class Step:
    """Steps of one model. Metrics are running means since ``reset``."""

    def __init__(self, model: keras.Model, compiled: Compiled) -> None:
        self.model = model
        self._compiled = compiled
        self._units = int(model.output_shape[1])
        self._class_weight = (
            tf.constant(compiled.class_weight, tf.float32) if compiled.class_weight is not None else None
        )
        self._loss = keras.metrics.Mean(name="loss")
        self._gradient_step = self._differentiated
        if model.jit_compile is True:
            self._gradient_step = tf.function(self._differentiated, jit_compile=True, autograph=False)

    @property
    def metric_variables(self) -> list[Any]:
        """State of the running means, part of a checkpoint so that a resumed epoch ends with the same numbers."""
        fed = (
            metric for metric in self.model.metrics if metric.name != self._loss.name
        )  # not Keras' own loss mean
        return [*self._loss.variables, *(variable for metric in fed for variable in metric.variables)]

    def reset(self) -> None:
        """Begin new running means."""
        self.model.reset_metrics()
        self._loss.reset_state()

    def create_metrics(self, y: Any) -> None:
        """Make loss and metrics create their variables now: made while tracing, they would cost a second trace.

        Raises:
            TrainingFailed: shape_mismatch: they do not go with outputs and labels; ``y`` is one row of these.
        """
        outputs = tf.zeros([1, self._units], tf.float32)
        targets = self._targets(self._apart(y)[0])
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

    def train(self, x: Any, y: Any) -> Any:
        """One optimizer step on a global batch: its loss, float32 scalar.

        Args:
            x: inputs [rows, ...]; with replicas in other processes, only this one's rows.
            y: labels of the whole batch as the data have them, [rows, ...].
        """
        targets, weights = self._weighted(y)
        loss, outputs = self._gradient_step(x, targets, weights)
        self._count(loss, x, targets, outputs)
        return tf.cast(loss, tf.float32)

    def test(self, x: Any, y: Any) -> None:
        """Add a batch to the running means. Arguments as ``train``'s."""
        targets = self._targets(y)
        outputs = self.model(x, training=False)
        loss = self.model.compute_loss(x=x, y=targets, y_pred=outputs, training=False)
        self._count(loss, x, targets, outputs)

    def results(self) -> dict[str, Any]:
        """Loss and scalar metrics, as tensors."""
        # Keras' own loss mean is fed by Model.train_step only; ours takes its place
        flat = {
            name: value for name, value in self.model.get_metrics_result().items() if len(value.shape) == 0
        }
        return {**flat, "loss": self._loss.result()}

    def _differentiated(self, x: Any, targets: Any, weights: Any) -> tuple[Any, Any]:
        model = self.model
        with tf.GradientTape() as tape:
            outputs = model(x, training=True)
            loss = model.compute_loss(x=x, y=targets, y_pred=outputs, sample_weight=weights, training=True)
            scaled = model.optimizer.scale_loss(loss)
        variables = model.trainable_variables
        if variables:
            gradients = tape.gradient(scaled, variables)
            model.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return loss, outputs

    def _count(self, loss: Any, x: Any, targets: Any, outputs: Any) -> None:
        self._loss.update_state(loss, sample_weight=tf.cast(tf.shape(targets)[0], tf.float32))
        self.model.compute_metrics(x, targets, outputs, None)

    def _targets(self, y: Any) -> Any:
        labels = self._compiled.labels
        if labels == "one_hot":
            return tf.one_hot(y, self._units)
        if labels == "column" or (labels == "numbers" and len(y.shape) == 1):
            return tf.cast(y, tf.float32)[:, tf.newaxis]
        return y

    def _weighted(self, y: Any) -> tuple[Any, Any]:
        """Targets and weights (float32 [rows], or None) of a training batch."""
        y, own = self._apart(y)
        by_class = self._weights(y)
        weights = by_class if own is None else own if by_class is None else own * by_class
        return self._targets(y), weights

    def _apart(self, y: Any) -> tuple[Any, Any]:
        """Labels as the data have them, and the rows' own weights where they lie in the last column."""
        if not self._compiled.weighted:
            return y, None
        labels, weights = y[:, :-1], y[:, -1]
        if self._compiled.labels != "numbers":
            labels = tf.cast(labels[:, 0], tf.int32)
        return labels, weights

    def _weights(self, y: Any) -> Any:
        return None if self._class_weight is None else tf.gather(self._class_weight, y)
