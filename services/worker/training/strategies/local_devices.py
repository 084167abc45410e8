"""Logical devices of this machine by the names that people write."""

from __future__ import annotations

import tensorflow as tf

from services.worker.training.failures import TrainingFailed
from shared.specs.strategy import device_key


def chosen(names: list[str] | None) -> list[str]:
    """``names`` as TensorFlow has them (``GPU:0``); None for all GPUs, or without one all logical CPUs.

    Starts TensorFlow's context.

    Raises:
        TrainingFailed: strategy_unavailable: there is no such device.
    """
    if names is None:
        kind = "GPU" if tf.config.list_logical_devices("GPU") else "CPU"
        return [_short(device.name) for device in tf.config.list_logical_devices(kind)]
    return [one(name) for name in names]


def one(name: str | None) -> str:
    """The device called ``name``; None for the first GPU, or the CPU.

    Raises:
        TrainingFailed: strategy_unavailable: there is no such device.
    """
    if name is None:
        return chosen(None)[0]
    there = {
        device_key(_short(device.name)): _short(device.name) for device in tf.config.list_logical_devices()
    }
    if device_key(name) not in there:
        raise TrainingFailed(
            "strategy_unavailable",
            f"There is no device {name} on this worker; there are {', '.join(there.values())}.",
            "Leave the device out of strategy, or split one with devices.virtual_devices.",
        )
    return there[device_key(name)]


def is_gpu(device: str) -> bool:
    """Whether a name from here is a GPU's."""
    return device.startswith("GPU:")


def _short(name: str) -> str:
    return name.removeprefix("/device:")
