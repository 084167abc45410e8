"""Keras' callbacks by name, with the arguments that each takes. A test holds them to the installed Keras.

Left out on purpose: callbacks that run given code or talk to other machines (LambdaCallback, RemoteMonitor), and those
that Modelyard is itself (BackupAndRestore, TensorBoard, History, ProgbarLogger).
"""

from __future__ import annotations

import re
from pathlib import PurePosixPath
from string import Formatter
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from shared.specs import keras_names
from shared.specs.base import Spec
from shared.specs.schedule import TableOrSchedule

Monitor = Annotated[str, StringConstraints(min_length=1, max_length=200)]
Mode = Literal["auto", "min", "max"]
Verbose = Annotated[int, Field(ge=0, le=2)]
_PLACEHOLDER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FORMAT = re.compile(r"[0-9]{0,2}(\.[0-9]{1,2})?[defg]?")
# what a run's folder holds anyway
_OURS = frozenset({"checkpoints", "export", "kept", "train", "validation", "test", "job.log", "spec.json"})


def _inside(name: str) -> str:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.parts or "\\" in name or "\0" in name:
        raise ValueError("lies outside the run's folder; give a relative name, such as best.keras")
    if path.parts[0] in _OURS or path.parts[0].startswith(("events.out.", ".")):
        raise ValueError(f"{path.parts[0]!r} is a place of Modelyard's own; choose another name")
    return name


FileName = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_inside)]


class EarlyStoppingParams(Spec):
    monitor: Monitor = "val_loss"
    min_delta: float = Field(0.0, ge=0)
    patience: int = Field(0, ge=0)
    verbose: Verbose = 0
    mode: Mode = "auto"
    baseline: float | None = None
    restore_best_weights: bool = False
    start_from_epoch: int = Field(0, ge=0)


class ReduceLROnPlateauParams(Spec):
    monitor: Monitor = "val_loss"
    factor: float = Field(0.1, gt=0, lt=1)
    patience: int = Field(10, ge=0)
    verbose: Verbose = 0
    mode: Mode = "auto"
    min_delta: float = Field(1e-4, ge=0)
    cooldown: int = Field(0, ge=0)
    min_lr: float = Field(0.0, ge=0)


class ModelCheckpointParams(Spec):
    filepath: FileName = Field(description="Inside the run; may have {epoch:02d}, {batch} and metrics.")
    monitor: Monitor = "val_loss"
    verbose: Verbose = 0
    save_best_only: bool = False
    save_weights_only: bool = False
    mode: Mode = "auto"
    save_freq: Literal["epoch"] | Annotated[int, Field(ge=1)] = Field(
        "epoch", description="'epoch', or a number of steps."
    )
    initial_value_threshold: float | None = None

    @model_validator(mode="after")
    def _file(self) -> ModelCheckpointParams:
        ending = ".weights.h5" if self.save_weights_only else ".keras"
        if not self.filepath.endswith(ending) or PurePosixPath(self.filepath).name == ending:
            weights = "true" if self.save_weights_only else "false"
            raise ValueError(f"the filepath must end in {ending} when save_weights_only is {weights}")
        if self.save_best_only and self.save_freq != "epoch" and self.monitor.startswith("val_"):
            raise ValueError(
                f"{self.monitor} is known at an epoch's end only: monitor a training metric, or leave save_freq out"
            )
        _check_placeholders(self.filepath)
        return self

    @property
    def placeholders(self) -> frozenset[str]:
        """Names between braces in ``filepath``."""
        return frozenset(name for _, name, _, _ in Formatter().parse(self.filepath) if name is not None)


def _check_placeholders(name: str) -> None:
    try:
        parts = list(Formatter().parse(name))
    except ValueError as error:
        raise ValueError(f"filepath: {error}") from None
    for _, field, form, conversion in parts:
        if field is None:
            continue
        if not _PLACEHOLDER.fullmatch(field) or conversion or not _FORMAT.fullmatch(form or ""):
            raise ValueError(
                f"in the filepath, {{{field}}} is no placeholder like {{epoch:02d}} or {{val_loss:.2f}}"
            )


class CSVLoggerParams(Spec):
    filename: FileName
    separator: str = Field(",", min_length=1, max_length=1)
    append: bool = Field(False, description="Makes no difference: each run has a folder of its own.")


class TerminateOnNaNParams(Spec):
    raise_error: bool = Field(False, description="True: the job fails. False: training ends there.")


class LearningRateSchedulerParams(Spec):
    """Keras' callback takes a function; this takes what one would write in it."""

    schedule: TableOrSchedule = Field(
        description="A table of epochs, from 0, or one of Keras' schedules with epochs in place of steps."
    )
    warmup_epochs: int = Field(
        0, ge=0, le=100_000, description="Epochs of linear rise to the schedule's start."
    )
    verbose: Verbose = 0


class SwapEMAWeightsParams(Spec):
    swap_on_epoch: bool = False


class EarlyStopping(Spec):
    name: Literal["EarlyStopping"]
    params: EarlyStoppingParams = EarlyStoppingParams()


class ReduceLROnPlateau(Spec):
    name: Literal["ReduceLROnPlateau"]
    params: ReduceLROnPlateauParams = ReduceLROnPlateauParams()


class ModelCheckpoint(Spec):
    name: Literal["ModelCheckpoint"]
    params: ModelCheckpointParams


class CSVLogger(Spec):
    name: Literal["CSVLogger"]
    params: CSVLoggerParams


class TerminateOnNaN(Spec):
    name: Literal["TerminateOnNaN"]
    params: TerminateOnNaNParams = TerminateOnNaNParams()


class LearningRateScheduler(Spec):
    name: Literal["LearningRateScheduler"]
    params: LearningRateSchedulerParams


class SwapEMAWeights(Spec):
    name: Literal["SwapEMAWeights"]
    params: SwapEMAWeightsParams = SwapEMAWeightsParams()


AnyCallback = (
    EarlyStopping
    | ReduceLROnPlateau
    | ModelCheckpoint
    | CSVLogger
    | TerminateOnNaN
    | LearningRateScheduler
    | SwapEMAWeights
)


def _named(value: Any) -> Any:
    if isinstance(value, str):
        value = {"name": value}
    name = value.get("name") if isinstance(value, dict) else None
    if isinstance(name, str) and name not in keras_names.CALLBACKS:
        close = keras_names.closest(name, keras_names.CALLBACKS)
        raise ValueError(
            f"Keras has no callback {name!r} that can be named here"
            + (f"; did you mean {close!r}?" if close else "")
        )
    if name in ("ModelCheckpoint", "CSVLogger", "LearningRateScheduler") and "params" not in value:
        value = {**value, "params": {}}  # so that the field that is missing is named
    return value


CallbackSpec = Annotated[
    Annotated[AnyCallback, Field(discriminator="name")],
    BeforeValidator(_named, json_schema_input_type=Annotated[AnyCallback, Field(discriminator="name")] | str),
]
