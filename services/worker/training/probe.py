"""Says what TensorFlow finds on this machine and what it is built with. Runs in a child of its own and ends with it."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any


def report(writer: int) -> None:
    """Write one JSON object to the file descriptor ``writer`` and close it."""
    found = examine()
    with os.fdopen(writer, "w") as out:
        json.dump(found, out)


def examine() -> dict[str, Any]:
    """Devices, build, versions and CPU, as plain data. Starts TensorFlow's context in this process."""
    import keras
    import tensorflow as tf

    from services.worker.training import devices

    port = devices.Port()
    for gpu in port.physical("GPU"):
        port.grow(gpu, True)  # or listing logical devices would take all of its memory from a job that runs
    return {
        "devices": _with_memory(devices.physical(), port),
        "logical_devices": devices.logical(),
        "versions": {
            "python": platform.python_version(),
            "tensorflow": tf.__version__,
            "keras": keras.__version__,
        },
        "built_with_cuda": port.built_with_cuda(),
        "build": {
            "cuda": port.built_with_cuda(),
            "rocm": bool(tf.test.is_built_with_rocm()),
            "xla": bool(tf.test.is_built_with_xla()),
            **{key: value for key, value in tf.sysconfig.get_build_info().items() if key in _BUILD},
        },
        "cpus": os.cpu_count(),
        "cpu": {
            "model": _cpu_model(),
            "cores": len(os.sched_getaffinity(0)),
            "features": sorted(devices.cpu_features()),
        },
    }


_BUILD = ("cuda_version", "cudnn_version", "cuda_compute_capabilities", "is_tensorrt_build", "rocm_version")


def _with_memory(found: list[dict[str, Any]], port: Any) -> list[dict[str, Any]]:
    host = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20
    totals = iter(port.gpu_memory_mb() if any(device["type"] == "GPU" for device in found) else ())
    return [
        {**device, "memory_mb": host if device["type"] == "CPU" else next(totals, None)} for device in found
    ]


def _cpu_model() -> str | None:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), None)
