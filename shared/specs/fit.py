"""How to train: epochs, batch size, optimizer, loss, metrics, callbacks, checkpoints, TensorBoard."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from shared.specs import keras_names
from shared.specs.base import Spec


class KerasObject(Spec):
    """One of Keras' own classes by name, with constructor arguments: ``{"name": "SGD", "params": {"momentum": 0.9}}``.

    A bare string is the name alone.
    """

    name: str = Field(min_length=1, max_length=80)
    params: dict[str, Any] = {}


def _from_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


Named = Annotated[KerasObject, BeforeValidator(_from_name)]


class FitSpec(Spec):
    """Arguments of compile and fit. ``batch_size`` is per replica."""

    epochs: int = Field(5, ge=1, le=100_000)
    batch_size: int = Field(128, ge=1, le=1_048_576, description="Rows per step and replica.")
    optimizer: Named = KerasObject(name="adam")
    learning_rate: float | None = Field(None, gt=0, le=100, description="Null: the optimizer's own default.")
    loss: Named | None = Field(
        None,
        description="Null: sparse_categorical_crossentropy for classes, mean_squared_error for regression.",
    )
    metrics: list[Named] | None = Field(
        None, max_length=20, description="Null: accuracy for classes, mean_absolute_error for regression."
    )
    callbacks: list[Named] = Field([], max_length=20)
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
    def _known_optimizer(cls, value: KerasObject) -> KerasObject:
        return known(value, keras_names.OPTIMIZERS, "optimizer")

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
    def _known_callbacks(cls, value: list[KerasObject]) -> list[KerasObject]:
        for item in value:
            known(item, keras_names.CALLBACKS, "callback")
        return value


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


class CheckpointSpec(Spec):
    """When the state of training is written, so that a lost attempt goes on from there."""

    every: Literal["epoch"] | int = Field("epoch", description="'epoch', or a number of steps.")
    keep: int = Field(2, ge=1, le=1000, description="Newest checkpoints kept.")

    @field_validator("every")
    @classmethod
    def _positive(cls, value: str | int) -> str | int:
        if isinstance(value, int) and value < 1:
            raise ValueError("must be 'epoch' or at least 1")
        return value


class TensorBoardSpec(Spec):
    """What a run writes for TensorBoard."""

    histogram_freq: int = Field(1, ge=0, description="Weight histograms every so many epochs; 0: none.")
    write_images: bool = Field(True, description="Weights as images, with the histograms.")
    write_graph: bool = True
    update_freq: Literal["epoch", "batch"] | int = Field(
        "epoch", description="Scalars by epoch, by batch, or every so many batches."
    )
    sample_images: int = Field(10, ge=0, le=100, description="Training images shown; 0: none.")
