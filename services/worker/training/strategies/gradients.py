"""Gradients are summed over replicas before the optimizer sees them. Keras 3 does it last of all, too late.

Keras' optimizers sum gradients themselves, but only in their update step: clipping (``clipnorm``, ``global_clipnorm``,
``clipvalue``), the mean of accumulated gradients and the test for overflow of a scaled loss come before, and work on
each replica's own gradient (differences of 1e-3 after one step were measured). So ``summed`` comes first, and the
optimizer's own sum, its one private method that is touched in this code base, is switched off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from services.worker.training.failures import model_invalid


def summed(gradients: Sequence[Any]) -> list[Any]:
    """Sums over all replicas, in a replica's context; None, for a variable that the loss does not use, stays None."""
    present = [gradient for gradient in gradients if gradient is not None]
    context = tf.distribute.get_replica_context()
    found = iter(context.all_reduce(tf.distribute.ReduceOp.SUM, present) if present else ())
    return [None if gradient is None else next(found) for gradient in gradients]


def reduced_by_caller(optimizer: keras.Optimizer) -> None:
    """Tell ``optimizer`` that the gradients it will be given are summed already."""
    innermost = _innermost(optimizer)
    if not hasattr(innermost, "_all_reduce_sum_gradients"):
        raise RuntimeError("this version of Keras sums gradients elsewhere; see strategies/gradients.py")
    innermost._all_reduce_sum_gradients = list


def check(optimizer: keras.Optimizer) -> None:
    """Refuse what Keras' optimizers can't do under a strategy.

    Raises:
        TrainingFailed: model_invalid.
    """
    innermost = _innermost(optimizer)
    for name in ("gradient_accumulation_steps", "ema_overwrite_frequency"):
        if getattr(innermost, name, None):
            raise model_invalid(
                f"fit.optimizer.params.{name}",
                "Keras can't do this on several replicas (an update inside a condition)",
                "Leave it out, or train on one device.",
            )


def _innermost(optimizer: Any) -> Any:
    while (inner := getattr(optimizer, "inner_optimizer", None)) is not None:
        optimizer = inner
    return optimizer
