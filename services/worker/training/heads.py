"""How a model ends: how many units, which activation. Decides losses, labels and what is served."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import keras

from services.worker.training.data.record import TrainingData
from services.worker.training.failures import TrainingFailed

Activation = Literal["softmax", "sigmoid", "linear", "other"]


@dataclass(frozen=True, slots=True)
class Head:
    """The model's last layer."""

    units: int
    activation: Activation


def head_of(model: keras.Model) -> Head:
    """The head of ``model``, whose output is [batch, units]."""
    layer: Any = model
    while isinstance(layer, keras.Model) and layer.layers:
        layer = layer.layers[-1]
    return Head(units=int(model.output_shape[1]), activation=_activation(layer))


def _activation(layer: Any) -> Activation:
    if isinstance(layer, keras.layers.Softmax):
        return "softmax"
    function = getattr(layer, "activation", None)
    if function is keras.activations.softmax:
        return "softmax"
    if function is keras.activations.sigmoid:
        return "sigmoid"
    if function is keras.activations.linear and isinstance(layer, keras.layers.Dense):
        return "linear"
    return "other"


def check(head: Head, data: TrainingData) -> None:
    """Whether outputs and targets go together, before any time is spent on training.

    Raises:
        TrainingFailed: shape_mismatch, with both numbers.
    """
    if data.classes is None:
        wanted = 1 if data.train.y.ndim == 1 else int(data.train.y.shape[1])
        if head.units != wanted:
            raise TrainingFailed(
                "shape_mismatch",
                f"the data have {wanted} target number(s) a row, but the model has {head.units} outputs",
                f"Give the last Dense layer {wanted} unit(s).",
            )
        return
    classes = len(data.classes)
    if head.units == 1 and classes == 2:
        return
    if head.units < classes:
        raise TrainingFailed(
            "shape_mismatch",
            f"labels go up to {classes - 1}, but the model has {head.units} outputs",
            f"Give the last layer {classes} units, one a class.",
        )
