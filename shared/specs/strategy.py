"""Where the replicas of a model run and how they agree: ``tf.distribute``'s strategies, a union on ``kind``.

``fit.batch_size`` is per replica; the global batch, which decides what is learned, is that times the replicas.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator

from shared.specs.base import Spec

DEVICE_PATTERN = r"^/?(device:)?([cC][pP][uU]|[gG][pP][uU]):\d{1,4}$"
DeviceName = Annotated[
    str,
    StringConstraints(pattern=DEVICE_PATTERN),
    Field(examples=["GPU:0"]),
]
TpuText = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9:/._-]*$", max_length=253)]


def _devices(description: str) -> list[DeviceName] | None:
    field: list[DeviceName] | None = Field(None, min_length=1, max_length=256, description=description)
    return field


class Replicated(Spec):
    """What strategies with several replicas have in common."""

    preflight: bool = Field(
        True,
        description="Before training, compare a few steps on all replicas with the same steps on one, and stop the "
        "job if they disagree.",
    )


class _OnDevices(Replicated):
    devices: list[DeviceName] | None = _devices(
        "One replica on each; null: all GPUs, or else all logical CPUs."
    )

    @field_validator("devices")
    @classmethod
    def _no_twins(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len({device_key(name) for name in value}) != len(value):
            raise ValueError("a device is named twice")
        return value


class DefaultStrategy(Spec):
    """No strategy: the whole step on the first GPU, or on the CPU."""

    kind: Literal["default"] = "default"


class OneDeviceStrategy(Spec):
    """Variables and computation on one device of your choice."""

    kind: Literal["one_device"] = "one_device"
    device: DeviceName | None = Field(None, description="Null: the first GPU, or else the CPU.")


class MirroredStrategy(_OnDevices):
    """A copy of the model on each device of this machine; gradients are summed each step."""

    kind: Literal["mirrored"] = "mirrored"
    cross_device_ops: Literal["auto", "reduction_to_one_device", "hierarchical_copy", "nccl"] = Field(
        "auto",
        description="How gradients are summed. auto: nccl on GPUs, reduction_to_one_device on logical CPUs.",
    )


class CentralStorageStrategy(_OnDevices):
    """Variables in one place, on the CPU or on one device; each step computed by all devices of this machine."""

    kind: Literal["central_storage"] = "central_storage"
    parameter_device: DeviceName | None = Field(
        None, description="Where the variables are. Null: the GPU if there is one, or else the CPU."
    )


class OnWorkers(Replicated):
    """What strategies of several processes have in common."""

    placement: Literal["auto", "one_worker", "spread"] = Field(
        "auto",
        description="one_worker: all processes on the worker that takes the job. spread: one slot of each of `workers` "
        "Modelyard workers; the job waits until they are there. auto: spread if so many are alive and come in time, or "
        "else one_worker.",
    )


class MultiWorkerMirroredStrategy(OnWorkers):
    """A copy of the model in each of several processes; gradients are summed each step by collectives."""

    kind: Literal["multi_worker_mirrored"] = "multi_worker_mirrored"
    workers: int = Field(2, ge=1, le=256, description="Processes, the chief among them.")
    communication: Literal["auto", "ring", "nccl"] = Field(
        "auto", description="Collectives between workers. auto: nccl where all have GPUs, ring elsewhere."
    )


class ParameterServerStrategy(OnWorkers):
    """Variables on parameter servers; workers compute steps at their own pace and apply them as they come."""

    kind: Literal["parameter_server"] = "parameter_server"
    workers: int = Field(2, ge=1, le=256, description="Processes that compute steps.")
    ps: int = Field(1, ge=1, le=64, description="Processes that hold variables.")


class TpuStrategy(Replicated):
    """A replica on each core of a TPU."""

    kind: Literal["tpu"] = "tpu"
    name: TpuText = Field(
        "local", description="TPU's name or grpc:// address; 'local': the one of this host."
    )
    zone: TpuText | None = Field(None, description="Google Cloud zone of a TPU that is given by name.")
    project: TpuText | None = Field(None, description="Google Cloud project of a TPU that is given by name.")


StrategySpec = Annotated[
    DefaultStrategy
    | OneDeviceStrategy
    | MirroredStrategy
    | CentralStorageStrategy
    | MultiWorkerMirroredStrategy
    | ParameterServerStrategy
    | TpuStrategy,
    Field(discriminator="kind"),
]


def device_key(name: str) -> tuple[str, int]:
    """("GPU", 0) of every way of writing it: GPU:0, gpu:0, /gpu:0, /device:GPU:0."""
    kind, _, index = name.removeprefix("/").lower().removeprefix("device:").partition(":")
    return kind.upper(), int(index)
