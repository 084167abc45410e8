"""one_device: variables and steps on one device of the user's choice."""

from __future__ import annotations

import tensorflow as tf

from services.worker.training.strategies import local_devices
from services.worker.training.strategies.opened import OpenStrategy
from shared.specs import OneDeviceStrategy


def open(spec: OneDeviceStrategy) -> OpenStrategy:
    """Raises TrainingFailed: strategy_unavailable, if there is no such device."""
    device = local_devices.one(spec.device)
    return OpenStrategy(spec.kind, tf.distribute.OneDeviceStrategy(f"/device:{device}"), (device,))
