"""default: no strategy. TensorFlow puts variables and steps on the first GPU, or on the CPU."""

from __future__ import annotations

from services.worker.training.strategies import local_devices
from services.worker.training.strategies.opened import OpenStrategy


def open() -> OpenStrategy:
    """The steps run as they are; no ``tf.distribute`` is involved."""
    return OpenStrategy("default", devices=(local_devices.one(None),))
