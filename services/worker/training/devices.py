"""Applies a job's device options to TensorFlow, before its context starts, and says what it got.

A warm trainer is forked with TensorFlow loaded and nothing initialised; ``apply`` must be its first call into it, and
lists physical devices only. Whatever lists logical devices or runs an op starts the context, after which none of
these options can change any more.
"""

from __future__ import annotations

import os
import subprocess
from typing import Any

import keras
import tensorflow as tf

from services.worker.training import device_plan
from services.worker.training.device_plan import Machine, Plan
from services.worker.training.emitter import Emitter
from shared.specs import DeviceSpec


def apply(spec: DeviceSpec, emit: Emitter) -> Plan:
    """Set up TensorFlow as ``spec`` asks for; what does not apply here is told as a warning.

    Raises:
        TrainingFailed: device_unavailable, device_invalid.
    """
    plan = device_plan.make(spec, machine(measure_memory=spec.virtual_devices is not None))
    for code, message in plan.warnings:
        emit.warn(code, message)
    gpus = tf.config.list_physical_devices("GPU")
    if len(plan.gpus) != len(gpus):
        tf.config.set_visible_devices([gpus[index] for index in plan.gpus], "GPU")
    for index in plan.gpus:
        if plan.growth is not None:
            tf.config.experimental.set_memory_growth(gpus[index], plan.growth)
        _split(gpus[index], plan.limits.get(index, []))
    if plan.logical_cpus > 1:
        _split(tf.config.list_physical_devices("CPU")[0], [None] * plan.logical_cpus)
    if spec.soft_placement is not None:
        tf.config.set_soft_device_placement(spec.soft_placement)
    if spec.log_placement:
        tf.debugging.set_log_device_placement(True)
    if spec.intra_op_threads:
        tf.config.threading.set_intra_op_parallelism_threads(spec.intra_op_threads)
    if spec.inter_op_threads:
        tf.config.threading.set_inter_op_parallelism_threads(spec.inter_op_threads)
    keras.mixed_precision.set_dtype_policy(spec.mixed_precision)
    return plan


def _split(device: Any, limits: list[int] | list[None]) -> None:
    if limits:
        parts = [tf.config.LogicalDeviceConfiguration(memory_limit=limit) for limit in limits]
        tf.config.set_logical_device_configuration(device, parts)


def machine(*, measure_memory: bool = False) -> Machine:
    """What TensorFlow finds here, without starting its context."""
    gpus = len(tf.config.list_physical_devices("GPU"))
    return Machine(
        gpus=gpus,
        cores=len(os.sched_getaffinity(0)),
        built_with_cuda=bool(tf.test.is_built_with_cuda()),
        gpu_memory_mb=_gpu_memory_mb() if gpus and measure_memory else (),
    )


def _gpu_memory_mb() -> tuple[int | None, ...]:
    """TensorFlow tells a GPU's memory only once it has taken it, so the driver's own tool is asked."""
    command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
        return tuple(int(line) for line in done.stdout.split())
    except (OSError, subprocess.SubprocessError, ValueError):
        return ()


def smallest_gpu_bytes(plan: Plan | None) -> int | None:
    """What a job may take of the smallest logical GPU; None where it can't be told."""
    if plan is None:
        return None
    totals = _gpu_memory_mb()
    shares = [share for parts in plan.limits.values() for share in parts]
    shares += [totals[gpu] or 0 for gpu in plan.gpus if gpu not in plan.limits and gpu < len(totals)]
    smallest = min(shares, default=0)
    return smallest * 1024 * 1024 or None


def physical() -> list[dict[str, Any]]:
    """Each physical device with what TensorFlow knows about it; does not start the context."""
    found = []
    for device in tf.config.list_physical_devices():
        details = dict(tf.config.experimental.get_device_details(device) or {})
        capability = details.pop("compute_capability", None)
        found.append(
            {
                "name": device.name.removeprefix("/physical_device:"),
                "type": device.device_type,
                "model": details.pop("device_name", None),
                "compute_capability": ".".join(map(str, capability)) if capability else None,
                **details,
            }
        )
    return found


def logical() -> list[dict[str, Any]]:
    """Each logical device; starts the context."""
    return [
        {"name": device.name.removeprefix("/device:"), "type": device.device_type}
        for device in tf.config.list_logical_devices()
    ]
