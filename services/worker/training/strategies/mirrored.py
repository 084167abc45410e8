"""mirrored: a copy of the model on each device of this machine."""

from __future__ import annotations

import tensorflow as tf

from services.worker.training.failures import TrainingFailed
from services.worker.training.strategies import local_devices
from services.worker.training.strategies.opened import OpenStrategy
from shared.specs import MirroredStrategy


def open(spec: MirroredStrategy) -> OpenStrategy:
    """Raises TrainingFailed: strategy_unavailable, if a device is missing or nccl is asked for on CPUs."""
    devices = local_devices.chosen(spec.devices)
    chosen = spec.cross_device_ops
    if chosen == "auto":
        chosen = "nccl" if all(map(local_devices.is_gpu, devices)) else "reduction_to_one_device"
    strategy = tf.distribute.MirroredStrategy(
        [f"/device:{device}" for device in devices], cross_device_ops=_operation(chosen, devices, spec)
    )
    facts = {"cross_device_ops": chosen} if len(devices) > 1 else {}
    return OpenStrategy(spec.kind, strategy, tuple(devices), facts)


def _operation(name: str, devices: list[str], spec: MirroredStrategy) -> tf.distribute.CrossDeviceOps | None:
    if name == "reduction_to_one_device":
        return tf.distribute.ReductionToOneDevice()
    if name == "hierarchical_copy":
        return tf.distribute.HierarchicalCopyAllReduce()
    if not all(map(local_devices.is_gpu, devices)):
        raise TrainingFailed(
            "strategy_unavailable",
            f"cross_device_ops nccl sums between GPUs, but the devices are {', '.join(devices)}.",
            "Leave strategy.cross_device_ops out, or choose reduction_to_one_device.",
        )
    # asked for by name: NCCL's own op; else TensorFlow's default on GPUs, which is collectives over NCCL
    return tf.distribute.NcclAllReduce() if spec.cross_device_ops == "nccl" else None
