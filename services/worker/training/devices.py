"""Applies a job's device options to TensorFlow, before its context starts, and says what it got.

A warm trainer is forked with TensorFlow loaded and nothing initialised; ``apply`` must be its first call into it, and
lists physical devices only. Whatever lists logical devices or runs an op starts the context, after which none of
these options can change any more.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from services.worker.training import device_plan
from services.worker.training.device_plan import Machine, Plan
from services.worker.training.emitter import Emitter
from shared.specs import DeviceSpec


class Port:
    """TensorFlow's configuration where it needs GPUs, or a context not started yet, so that tests can do without."""

    def physical(self, kind: str) -> Sequence[Any]:
        """Physical devices of a kind, GPU or CPU; does not start the context."""
        found: Sequence[Any] = tf.config.list_physical_devices(kind)
        return found

    def capability(self, device: Any) -> tuple[int, int] | None:
        """A GPU's compute capability."""
        found: tuple[int, int] | None = tf.config.experimental.get_device_details(device).get(
            "compute_capability"
        )
        return found

    def built_with_cuda(self) -> bool:
        """Whether this TensorFlow can use NVIDIA's GPUs at all."""
        return bool(tf.test.is_built_with_cuda())

    def gpu_memory_mb(self) -> tuple[int | None, ...]:
        """Of each GPU; TensorFlow tells it only once it has taken it, so the driver's own tool is asked."""
        command = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True)
            return tuple(int(line) for line in done.stdout.split())
        except (OSError, subprocess.SubprocessError, ValueError):
            return ()

    def show_only(self, gpus: list[Any]) -> None:
        """Hide the other GPUs."""
        tf.config.set_visible_devices(gpus, "GPU")

    def grow(self, gpu: Any, enable: bool) -> None:
        """Memory growth."""
        tf.config.experimental.set_memory_growth(gpu, enable)

    def split(self, device: Any, limits: Sequence[int | None]) -> None:
        """Make logical devices with these memory limits in MB."""
        parts = [tf.config.LogicalDeviceConfiguration(memory_limit=limit) for limit in limits]
        tf.config.set_logical_device_configuration(device, parts)

    def use_threads(self, *, intra: int | None, inter: int | None) -> None:
        """Threads within an op, and ops at once; None leaves them."""
        if intra is not None:
            tf.config.threading.set_intra_op_parallelism_threads(intra)
        if inter is not None:
            tf.config.threading.set_inter_op_parallelism_threads(inter)


def apply(spec: DeviceSpec, emit: Emitter, *, port: Port | None = None) -> Plan:
    """Set up TensorFlow as ``spec`` asks for; what does not apply here is told as a warning.

    Args:
        spec: the job's options.
        emit: takes the warnings.
        port: TensorFlow's, but in tests.

    Raises:
        TrainingFailed: device_unavailable, device_invalid.
    """
    port = port or Port()
    plan = device_plan.make(spec, machine(port, measure_memory=spec.virtual_devices is not None))
    for code, message in plan.warnings:
        emit.warn(code, message)
    gpus = port.physical("GPU")
    if len(plan.gpus) != len(gpus):
        port.show_only([gpus[index] for index in plan.gpus])
    for index in plan.gpus:
        if plan.growth is not None:
            port.grow(gpus[index], plan.growth)
        if index in plan.limits:
            port.split(gpus[index], plan.limits[index])
    if plan.logical_cpus > 1:
        port.split(port.physical("CPU")[0], [None] * plan.logical_cpus)
    if spec.soft_placement is not None:
        tf.config.set_soft_device_placement(spec.soft_placement)
    if spec.log_placement:
        tf.debugging.set_log_device_placement(True)
    port.use_threads(intra=spec.intra_op_threads, inter=spec.inter_op_threads)
    keras.mixed_precision.set_dtype_policy(spec.mixed_precision)
    return plan


def machine(port: Port, *, measure_memory: bool = False) -> Machine:
    """What TensorFlow finds here, without starting its context."""
    gpus = port.physical("GPU")
    return Machine(
        gpus=len(gpus),
        cores=len(os.sched_getaffinity(0)),
        built_with_cuda=port.built_with_cuda(),
        gpu_memory_mb=port.gpu_memory_mb() if gpus and measure_memory else (),
        capabilities=tuple(port.capability(gpu) for gpu in gpus),
        fast_bfloat16=not cpu_features().isdisjoint({"avx512_bf16", "amx_bf16", "bf16"}),
    )


def cpu_features() -> set[str]:
    """Instruction sets that matter to training, as the kernel lists them; empty where it does not."""
    wanted = {
        "avx",
        "avx2",
        "fma",
        "avx512f",
        "avx512_bf16",
        "avx512_vnni",
        "amx_bf16",
        "amx_tile",
        "asimd",
        "bf16",
    }
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, flags = line.partition(":")
            if key.strip() in {"flags", "Features"}:
                return wanted & set(flags.split())
    except OSError:
        pass
    return set()


def settle_xla(model: keras.Model, spec: DeviceSpec, plan: Plan, replicas: int, emit: Emitter) -> None:
    """Decide whether the steps of a compiled ``model`` go through XLA; ``auto`` is what Keras has decided."""
    if spec.xla == "auto":
        model.jit_compile = bool(model.jit_compile) and plan.kind == "GPU" and replicas == 1
        return
    wanted = spec.xla
    if wanted and plan.kind == "CPU":
        if replicas > 1:
            emit.warn(
                "xla_off",
                "XLA is off: it can't compile a step whose replicas are on several CPU devices "
                "(a variable lies on another device than the step).",
            )
            wanted = False
        else:
            emit.warn(
                "xla_on_cpu", "XLA on a CPU is about twice as slow as without, and takes seconds to compile."
            )
    model.jit_compile = wanted


def smallest_gpu_bytes(plan: Plan | None) -> int | None:
    """What a job may take of the smallest logical GPU; None where it can't be told."""
    if plan is None:
        return None
    totals = Port().gpu_memory_mb()
    shares = [share for parts in plan.limits.values() for share in parts]
    shares += [totals[gpu] or 0 for gpu in plan.gpus if gpu not in plan.limits and gpu < len(totals)]
    smallest = min(shares, default=0)
    return smallest * 1024 * 1024 or None


def facts(spec: DeviceSpec, plan: Plan | None) -> dict[str, Any]:
    """What was asked for and what there is now. Starts the context."""
    return {
        "requested": spec.model_dump(exclude_defaults=True),
        "physical": physical(),
        "logical": logical(plan),
        "soft_placement": bool(tf.config.get_soft_device_placement()),
        "precision": keras.mixed_precision.dtype_policy().name,
        # 0 is TensorFlow's word for: as many as cores
        "intra_op_threads": tf.config.threading.get_intra_op_parallelism_threads(),
        "inter_op_threads": tf.config.threading.get_inter_op_parallelism_threads(),
    }


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


def logical(plan: Plan | None = None) -> list[dict[str, Any]]:
    """Each logical device, with its memory limit in MB where ``plan`` set one; starts the context."""
    limits = iter([limit for parts in plan.limits.values() for limit in parts] if plan else [])
    return [
        {
            "name": device.name.removeprefix("/device:"),
            "type": device.device_type,
            "memory_limit_mb": next(limits, None) if device.device_type == "GPU" else None,
        }
        for device in tf.config.list_logical_devices()
    ]
