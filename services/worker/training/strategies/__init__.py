"""Opening a job's strategy: the first thing that TensorFlow is asked for after its devices are set up."""

from __future__ import annotations

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
    MirroredStrategy,
    MultiWorkerMirroredStrategy,
    OneDeviceStrategy,
    ParameterServerStrategy,
    StrategySpec,
    TpuStrategy,
)

__all__ = ["OpenStrategy", "open"]


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
