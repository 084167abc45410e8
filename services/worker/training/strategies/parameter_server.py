"""parameter_server: variables live in processes of their own; workers compute steps on them at their own pace.

The chief, which runs the job, hands out steps (``training.coordinated``) and owns all else: rows, metrics, checkpoints.
The other processes do as it says (``training.server``), and know nothing of the job.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from services.worker.training.failures import TrainingFailed
from services.worker.training.strategies.opened import OpenStrategy
from shared.specs import ParameterServerStrategy


@dataclass(frozen=True)
class Coordinated(OpenStrategy):
    """``replicas`` is 1: each update of the variables comes from one worker's batch."""

    coordinator: Any = None

    @property
    def replicas(self) -> int:
        """See the class."""
        return 1


def open(spec: ParameterServerStrategy) -> OpenStrategy:
    """Connect to parameter servers and workers, which ``TF_CONFIG`` names; returns when all are there.

    Raises:
        TrainingFailed: strategy_unavailable.
        tf.errors.UnknownError: the chief's port is taken.
    """
    if "TF_CONFIG" not in os.environ:
        raise TrainingFailed(
            "strategy_unavailable",
            "parameter_server needs a cluster, which this program was started without.",
        )
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    strategy = tf.distribute.ParameterServerStrategy(resolver)
    coordinator = tf.distribute.coordinator.ClusterCoordinator(strategy)
    facts = {"workers": spec.workers, "ps": spec.ps, "updates": "asynchronous"}
    return Coordinated(spec.kind, strategy, facts=facts, coordinator=coordinator)
