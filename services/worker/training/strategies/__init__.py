"""Opening a job's strategy: the first thing that TensorFlow is asked for after its devices are set up."""

from __future__ import annotations

from collections.abc import Iterator

from services.worker.training.failures import TrainingFailed
from services.worker.training.strategies import (
    central_storage,
    default,
    mirrored,
    multi_worker_mirrored,
    one_device,
    parameter_server,
    tpu,
)
from services.worker.training.strategies.opened import OpenStrategy
from shared.specs import (
    CentralStorageStrategy,
    DefaultStrategy,
    DeviceSpec,
    MirroredStrategy,
    MultiWorkerMirroredStrategy,
    OneDeviceStrategy,
    ParameterServerStrategy,
    StrategySpec,
    TpuStrategy,
)

__all__ = ["OpenStrategy", "doubts", "open"]


def open(spec: StrategySpec) -> OpenStrategy:
    """The strategy that ``spec`` asks for. Model, optimizer and metrics are created in its ``scope``.

    Raises:
        TrainingFailed: strategy_unavailable: this machine can't run it.
    """
    match spec:
        case DefaultStrategy():
            return default.open()
        case OneDeviceStrategy():
            return one_device.open(spec)
        case MirroredStrategy():
            return mirrored.open(spec)
        case CentralStorageStrategy():
            return central_storage.open(spec)
        case MultiWorkerMirroredStrategy():
            return multi_worker_mirrored.open(spec)
        case ParameterServerStrategy():
            return parameter_server.open(spec)
        case TpuStrategy():
            return tpu.open(spec)
    raise TrainingFailed(
        "strategy_unavailable",
        f"The strategy {spec.kind} can't be run yet.",
        "Leave strategy out, which trains on one device.",
    )


def doubts(spec: StrategySpec, devices: DeviceSpec, opened: OpenStrategy) -> Iterator[tuple[str, str]]:
    """(code, sentence) for what was asked for and does nothing on this machine."""
    if isinstance(spec, MirroredStrategy | CentralStorageStrategy) and opened.replicas == 1:
        yield (
            "one_replica",
            f"{spec.kind} trains one replica here, on {', '.join(opened.devices)}: there is nothing to share the work "
            "with. It takes several GPUs, or devices.virtual_devices to try it out.",
        )
    split = devices.virtual_devices
    several = len(split) if isinstance(split, list) else split or 1
    named = isinstance(spec, MirroredStrategy | CentralStorageStrategy | OneDeviceStrategy)  # theirs by name
    if several > 1 and len(opened.devices) < several and not named:
        yield (
            "virtual_devices_idle",
            f"devices.virtual_devices makes {several} logical devices, but {spec.kind} computes on "
            f"{', '.join(opened.devices) or 'the first'} only: name mirrored or central_storage to use all.",
        )
