"""The steps of ``step.Step`` on several replicas, so that they compute what one replica would on the global batch.

Each replica takes its slice of the batch; its loss counts by its share of the rows, so that the sum over replicas is
the loss of the whole batch, and so are the gradients, which are summed before the optimizer sees them. Outputs are
gathered and metrics are computed once, on variables of their own, from the very numbers that one device would have.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from services.worker.training.compiling import Compiled
from services.worker.training.failures import TrainingFailed, model_invalid
from services.worker.training.step import Step
from services.worker.training.strategies import global_layers, gradients
from services.worker.training.strategies.opened import OpenStrategy

# these compare the rows of a batch with each other, so a slice's loss is not a part of the batch's
_NOT_BY_ROW = frozenset({"Circle", "Dice", "Tversky"})


class ReplicatedStep(Step):
    """Steps on the replicas of ``opened``. Create it outside the strategy's scope: metrics are not mirrored."""

    def __init__(self, model: keras.Model, compiled: Compiled, opened: OpenStrategy) -> None:
        if model.jit_compile is True:
            raise TrainingFailed(
                "strategy_unavailable",
                f"XLA does not go with the strategy {opened.kind}: what replicas tell each other can't be compiled.",
                "Leave devices.xla out, or leave strategy out.",
            )
        super().__init__(model, compiled)
        self._opened = opened
        self._strategy: Any = opened.strategy
        self._slices = opened.slices
        self.own_randomness: list[str] = []
        if opened.replicas > 1:
            _check(model, compiled)
            self.own_randomness = global_layers.adapt(model)
            gradients.reduced_by_caller(model.optimizer)

    def train(self, x: Any, y: Any) -> Any:
        """See ``Step.train``."""
        targets, weights = self._weighted(y)
        arguments = self._dealt(x, targets, weights)
        losses, outputs = self._strategy.run(self._train_replica, args=(arguments,))
        return self._counted(losses, outputs, x, targets)

    def test(self, x: Any, y: Any) -> None:
        """See ``Step.test``."""
        targets = self._targets(y)
        arguments = self._dealt(x, targets, None)
        losses, outputs = self._strategy.run(self._test_replica, args=(arguments,))
        self._counted(losses, outputs, x, targets)

    def _counted(self, losses: Any, outputs: Any, x: Any, targets: Any) -> Any:
        loss = self._strategy.reduce(tf.distribute.ReduceOp.SUM, losses, axis=None)
        # a batch that went to each replica whole comes back once from each
        whole = self._opened.gather(outputs)[: tf.shape(targets)[0]]
        self._count(loss, x, targets, whole)
        return loss

    def _dealt(self, x: Any, targets: Any, weights: Any) -> Any:
        """Per replica: its rows of x, targets and weights, their place in the batch, and their share of the loss."""
        total = tf.shape(targets, tf.int64)[0]
        origin, _ = self._slices.local_range(total)

        def take(context: Any) -> dict[str, Any]:
            replica = tf.constant(context.replica_id_in_sync_group, tf.int64)
            begin, end = self._slices.of(replica, total)
            with tf.device("CPU:0"):  # slice first, then copy to the replica's device
                return {
                    "x": x[begin - origin : end - origin],
                    "targets": targets[begin:end],
                    "weights": weights[begin:end] if weights is not None else (),
                    "begin": begin,
                    "total": total,
                    "share": self._slices.share(replica, total),
                }

        return self._strategy.experimental_distribute_values_from_function(take)

    def _train_replica(self, dealt: dict[str, Any]) -> tuple[Any, Any]:
        model, variables = self.model, self.model.trainable_variables
        with tf.GradientTape() as tape, global_layers.slice_of(dealt["begin"], dealt["total"], dealt["x"]):
            outputs = model(dealt["x"], training=True)
            loss = self._share_of_loss(dealt, outputs, training=True)
            scaled = model.optimizer.scale_loss(loss)
        if variables:
            summed = gradients.summed(tape.gradient(scaled, variables))
            model.optimizer.apply_gradients(zip(summed, variables, strict=True))
        return loss, outputs

    def _test_replica(self, dealt: dict[str, Any]) -> tuple[Any, Any]:
        outputs = self.model(dealt["x"], training=False)
        return self._share_of_loss(dealt, outputs, training=False), outputs

    def _share_of_loss(self, dealt: dict[str, Any], outputs: Any, *, training: bool) -> Any:
        """This replica's part of the batch's loss, float32: the parts add up to it."""
        weights = dealt["weights"]
        loss = self.model.compute_loss(
            x=dealt["x"],
            y=dealt["targets"],
            y_pred=outputs,
            sample_weight=weights if tf.is_tensor(weights) else None,
            training=training,
        )
        # in a replica, Keras gives means and penalties divided by the replicas, as if all slices were equal
        return tf.cast(loss, tf.float32) * (dealt["share"] * self._opened.replicas)


def _check(model: keras.Model, compiled: Compiled) -> None:
    if compiled.loss in _NOT_BY_ROW:
        raise model_invalid(
            "fit.loss",
            f"{compiled.loss} compares the rows of a batch with each other, which replicas that have a slice each "
            "can't do",
            "Train on one device, or choose a loss that is a mean over rows.",
        )
    reduction = getattr(model.loss, "reduction", "sum_over_batch_size")
    if reduction not in {"sum_over_batch_size", "mean", "auto"}:
        raise model_invalid(
            "fit.loss",
            f"the reduction {reduction!r} can't be split over replicas",
            "Leave params.reduction out: the mean over the global batch.",
        )
    gradients.check(model.optimizer)
