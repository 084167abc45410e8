"""central_storage: variables in one place, steps computed by all devices of this machine.

Keras 3 creates the variables that each replica changes alike (seeds of dropout, the scale of a loss) without saying
how these changes are to be joined, which this strategy refuses: ``You must specify an aggregation method``. All
replicas write the same, so the first one's is taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import tensorflow as tf

from services.worker.training.strategies import local_devices
from services.worker.training.strategies.opened import OpenStrategy
from shared.specs import CentralStorageStrategy


class _Central(OpenStrategy):
    def scope(self) -> AbstractContextManager[Any]:
        return _scope(super().scope())


@contextmanager
def _scope(strategy: AbstractContextManager[Any]) -> Iterator[None]:
    with strategy, tf.variable_creator_scope(_with_aggregation):
        yield


def _with_aggregation(create: Callable[..., Any], **options: Any) -> Any:
    if options.get("aggregation") in (None, tf.VariableAggregation.NONE):
        options["aggregation"] = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return create(**options)


def open(spec: CentralStorageStrategy) -> OpenStrategy:
    """Raises TrainingFailed: strategy_unavailable, if a device is missing."""
    devices = local_devices.chosen(spec.devices)
    if spec.parameter_device is not None:
        home = local_devices.one(spec.parameter_device)
    else:  # where there is one computing device, variables are best kept on it
        home = devices[0] if len(devices) == 1 else "CPU:0"
    strategy = tf.distribute.experimental.CentralStorageStrategy(
        [f"/device:{device}" for device in devices], parameter_device=f"/device:{home}"
    )
    return _Central(spec.kind, strategy, tuple(devices), {"parameter_device": home})
