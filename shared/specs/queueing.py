"""Which queue a job waits in: the one it names, or else the one of the resource that it can't do without."""

from __future__ import annotations

from shared.specs.base import Spec
from shared.specs.devices import DeviceSpec

DEFAULT_QUEUE = "default"
GPU_QUEUE = "gpu"
CPU_QUEUE = "cpu"
_DEVICE_FIELDS = ("device", "devices", "parameter_device")


def queue_of(spec: Spec) -> str:
    """The queue of a job, or of the trials of a study.

    ``gpu`` when ``devices.visible`` or the strategy names a GPU, ``cpu`` when ``devices.visible`` is the CPU alone,
    else ``default``.
    """
    work = getattr(spec, "base", spec)
    named = getattr(spec, "queue", None) or getattr(work, "queue", None)
    if named is not None:
        return str(named)
    devices = getattr(work, "devices", None)
    names: list[str] = []
    if isinstance(devices, DeviceSpec):
        if devices.cpu_only:
            return CPU_QUEUE
        names += devices.visible or ()
    strategy = getattr(work, "strategy", None)
    for field in _DEVICE_FIELDS:
        given = getattr(strategy, field, None)
        names += [given] if isinstance(given, str) else given or ()
    return GPU_QUEUE if any("gpu" in name.lower() for name in names) else DEFAULT_QUEUE
