"""How to train: epochs, batch size, optimizer, loss, metrics, callbacks."""

from __future__ import annotations

import posixpath
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, TypeAdapter, ValidationError, field_validator, model_validator

from shared.specs import keras_names
from shared.specs.base import Spec
from shared.specs.callbacks import CallbackSpec
from shared.specs.schedule import LearningRate, Schedule


class KerasObject(Spec):
    """One of Keras' own classes by name, with constructor arguments: ``{"name": "SGD", "params": {"momentum": 0.9}}``.

    A bare string is the name alone.
    """

    name: str = Field(min_length=1, max_length=80)
    params: dict[str, Any] = {}


def _from_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Named = Annotated[KerasObject, BeforeValidator(_from_name)]
_SCHEDULE: TypeAdapter[Any] = TypeAdapter(Schedule)


class FitSpec(Spec):
    """Arguments of compile and fit. ``batch_size`` is per replica."""

    epochs: int = Field(5, ge=1, le=100_000)
    batch_size: int = Field(128, ge=1, le=1_048_576, description="Rows per step and replica.")
    optimizer: Named | None = Field(
        None, description="Null: that of a compiled model of your own, else adam with Keras' defaults."
    )
    learning_rate: LearningRate | None = Field(
        None, description="A number, or one of Keras' schedules by step. Null: the optimizer's own default."
    )
    loss: Named | None = Field(
        None,
        description="Null: sparse_categorical_crossentropy for classes, mean_squared_error for regression.",
    )
    metrics: list[Named] | None = Field(
        None, max_length=20, description="Null: accuracy for classes, mean_absolute_error for regression."
    )
    callbacks: list[CallbackSpec] = Field([], max_length=20)
    class_weight: dict[str, Annotated[float, Field(ge=0, le=1e6)]] | Literal["balanced"] | None = Field(
        None,
        description="How much a row of each class counts in the loss, by class number or name; others count 1. "
        "balanced: rows / (classes * rows of the class), over the training rows.",
    )
    seed: int = Field(98, ge=0, le=2**31 - 1)
    deterministic: bool = Field(
        False, description="Bit-equal results on the same machine, at some cost in speed."
    )
    steps_per_execution: int | None = Field(
        None,
        ge=1,
        le=10_000,
        description="Steps per call into the runtime. Null: chosen from the steps per epoch.",
    )
    steps_per_epoch: int | None = Field(None, ge=1, description="Null: one pass over the data.")
    on_nan: Literal["fail", "continue"] = Field(
        "fail", description="What a loss that is not finite does to the job."
    )

    @field_validator("optimizer")
    @classmethod
    def _known_optimizer(cls, value: KerasObject | None) -> KerasObject | None:
        return value and known(value, keras_names.OPTIMIZERS, "optimizer")

    @field_validator("loss")
    @classmethod
    def _known_loss(cls, value: KerasObject | None) -> KerasObject | None:
        return value and known(value, keras_names.LOSSES, "loss")

    @field_validator("metrics")
    @classmethod
    def _known_metrics(cls, value: list[KerasObject] | None) -> list[KerasObject] | None:
        for item in value or ():
            known(item, keras_names.METRICS, "metric")
        return value

    @field_validator("callbacks")
    @classmethod
    def _files_of_their_own(cls, value: list[CallbackSpec]) -> list[CallbackSpec]:
        written: dict[str, str] = {}
        for callback in value:
            name = getattr(callback.params, "filename", None) or getattr(callback.params, "filepath", None)
            if name is None:
                continue
            if (file := posixpath.normpath(name)) in written:
                raise ValueError(
                    f"{written[file]} and {callback.name} both write {file!r}: give each its own file"
                )
            written[file] = callback.name
        return value

    @model_validator(mode="after")
    def _one_learning_rate(self) -> FitSpec:
        rate = self.optimizer.params.get("learning_rate") if self.optimizer is not None else None
        if isinstance(rate, dict):
            try:
                _SCHEDULE.validate_python(rate)
            except ValidationError as error:
                first = error.errors()[0]
                path = ".".join(("optimizer.params.learning_rate", *map(str, first["loc"])))
                raise ValueError(f"{path}: {first['msg']}") from None
        if isinstance(rate, dict) or not isinstance(self.learning_rate, float | None):
            for callback in self.callbacks:
                if callback.name in {"LearningRateScheduler", "ReduceLROnPlateau"}:
                    raise ValueError(
                        f"{callback.name} sets the learning rate, which a schedule by step sets already: "
                        "leave one of them out"
                    )
        return self


def known(item: KerasObject, names: frozenset[str], what: str) -> KerasObject:
    """``item``, if its name is one of ``names``.

    Raises:
        ValueError: it is not; the nearest name is suggested.
    """
    if item.name not in names:
        close = keras_names.closest(item.name, names)
        raise ValueError(
            f"Keras has no {what} {item.name!r} that can be named here"
            + (f"; did you mean {close!r}?" if close else "")
        )
    return item
