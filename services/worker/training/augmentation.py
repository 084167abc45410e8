"""Keras' augmentation layers, put in front of the model: at work in training only, still in evaluation and export.

Being layers of the model, their seed generators are among its variables, so that a resumed run goes on with the very
numbers that the lost one would have drawn.
"""

from __future__ import annotations

from typing import Any

import keras

from services.worker.training.data.record import TrainingData
from services.worker.training.failures import TrainingFailed, model_invalid
from services.worker.training.keras_config import in_words
from shared.specs import KerasObject

_ANY_ROWS = frozenset({"GaussianDropout", "GaussianNoise"})


def layers(data: TrainingData) -> list[keras.Layer]:
    """The layers that ``dataset.augment`` names, in its order.

    Raises:
        TrainingFailed: model_invalid with the field, for arguments that Keras refuses or rows that do not suit.
    """
    found = [_made(index, item, data) for index, item in enumerate(data.augment)]
    shape: tuple[Any, ...] = (None, *data.input_shape)
    for index, layer in enumerate(found):
        try:
            shape = tuple(layer.compute_output_shape(shape))
        except (ValueError, TypeError) as error:
            raise model_invalid(f"dataset.augment.{index}", in_words(error)) from error
        if shape[-1] != data.input_shape[-1]:
            raise model_invalid(f"dataset.augment.{index}", f"it makes rows of shape {list(shape[1:])}")
    return found


def _made(index: int, item: KerasObject, data: TrainingData) -> keras.Layer:
    field = f"dataset.augment.{index}"
    if item.name not in _ANY_ROWS and data.input_kind != "image":
        raise TrainingFailed(
            "model_invalid",
            f"{field}: {item.name} is for images, but rows have shape {list(data.input_shape)}",
            "For other rows there are GaussianNoise and GaussianDropout.",
        )
    if data.table is not None and any(column.kind == "categorical" for column in data.table):
        raise model_invalid(field, f"{item.name} would change the codes of categorical columns")
    params = dict(item.params)
    name = f"augment_{index + 1}_{item.name.lower()}"
    if (
        item.name in ("RandomBrightness", "RandomColorJitter", "RandomContrast")
        and "value_range" not in params
    ):
        params["value_range"] = [0.0, data.pixel_scale]
    try:
        layer: keras.Layer = getattr(keras.layers, item.name)(**{"name": name, **params})
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise model_invalid(f"{field}.params", in_words(error)) from error
    return layer
