"""Which devices a job uses, and how: memory, virtual devices, placement, precision, XLA, threads.

Names are TensorFlow's own (``tf.config``). What contradicts itself is refused here; what depends on the machine is
decided where the job runs, and an option that can't apply there becomes a warning or a failure of the job.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints, field_validator, model_validator

from shared.specs.base import Spec

MegaBytes = Annotated[int, Field(ge=1, le=4_194_304)]
PHYSICAL_DEVICE_PATTERN = r"^(CPU:0|GPU:(0|[1-9]\d{0,2}))$"
DeviceName = Annotated[str, StringConstraints(pattern=PHYSICAL_DEVICE_PATTERN)]
Precision = Literal["float32", "mixed_float16", "mixed_bfloat16", "bfloat16"]
_LOST_IN_BFLOAT16 = frozenset({"adam", "adamw", "nadam", "lamb", "schedulefreeadamw"})


class DeviceSpec(Spec):
    """How the job uses the worker's devices; set before TensorFlow starts, once per attempt."""

    visible: list[DeviceName] | None = Field(
        None,
        min_length=1,
        description="Devices the job may use, as 'GPU:0' or 'CPU:0', counted from 0 as the worker lists them. "
        "Null: all. The CPU is always there for what no GPU can do; ['CPU:0'] alone hides all GPUs.",
        examples=[["GPU:0"]],
    )
    memory_growth: bool | None = Field(
        None,
        description="Take GPU memory as it is needed, not all at once. Null: yes, unless a limit is set.",
    )
    memory_limit_mb: MegaBytes | None = Field(
        None, description="GPU memory that the job takes, in MB, of each visible GPU."
    )
    virtual_devices: Annotated[int, Field(ge=1, le=64)] | list[MegaBytes] | None = Field(
        None,
        description="Logical devices per physical one: how many, or the memory limit of each in MB. They stand for "
        "the GPUs if there are any, else for the CPU, where they share its memory.",
        examples=[2, [1024, 1024]],
    )
    soft_placement: bool | None = Field(
        None,
        description="Let an op run on the CPU where its device has no kernel. Null: TensorFlow's default.",
    )
    log_placement: bool = Field(False, description="Write each op's device to the job's log.")
    mixed_precision: Precision = Field(
        "float32",
        description="Keras' dtype policy for the model. The last layer and the signatures stay float32; the loss is "
        "scaled for mixed_float16.",
    )
    xla: bool | Literal["auto"] = Field(
        "auto", description="Compile the training step with XLA. auto: where Keras would, so never on CPUs."
    )
    intra_op_threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="Threads within one op. Null: as many as cores."
    )
    inter_op_threads: Annotated[int, Field(ge=1, le=1024)] | None = Field(
        None, description="Ops that run at once. Null: TensorFlow's default, as many as cores."
    )

    @field_validator("visible")
    @classmethod
    def _no_twins(cls, value: list[str] | None) -> list[str] | None:
        if value is not None and len(set(value)) != len(value):
            raise ValueError("a device is named twice")
        return value

    @field_validator("virtual_devices")
    @classmethod
    def _some(cls, value: int | list[int] | None) -> int | list[int] | None:
        if isinstance(value, list) and not 1 <= len(value) <= 64:
            raise ValueError("name the memory limits of 1 to 64 devices")
        return value

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> DeviceSpec:
        limits = isinstance(self.virtual_devices, list)
        if limits and self.memory_limit_mb is not None:
            raise ValueError(
                "virtual_devices already names a memory limit for each device: leave memory_limit_mb out"
            )
        if self.memory_growth:
            for name, given in (
                ("memory_limit_mb", self.memory_limit_mb is not None),
                ("virtual_devices with memory limits", limits),
            ):
                if given:
                    raise ValueError(
                        f"memory_growth and {name} exclude each other: a limited device takes its share at once"
                    )
        if self.cpu_only and (self.memory_growth or self.memory_limit_mb is not None or limits):
            raise ValueError("memory_growth and memory limits are for GPUs, but visible names the CPU alone")
        return self

    def check_optimizer(self, optimizer: str) -> None:
        """Refuse pure bfloat16 for optimizers whose beta_2 it rounds to 1, which scales each update to 0.

        Raises:
            ValueError: nothing would be learnt.
        """
        if self.mixed_precision == "bfloat16" and optimizer.lower() in _LOST_IN_BFLOAT16:
            raise ValueError(
                f"with mixed_precision 'bfloat16' the optimizer {optimizer} learns nothing: its state is bfloat16 too, "
                "where beta_2 = 0.999 is 1. Use 'mixed_bfloat16', or the optimizer SGD"
            )

    @property
    def cpu_only(self) -> bool:
        """Whether the job asks to run without GPUs."""
        return self.visible == ["CPU:0"]
