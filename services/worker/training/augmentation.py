"""Keras' augmentation layers, first in the model: at work in training only, still in evaluation and export.

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

_FLIPS = ("horizontal", "vertical", "horizontal_and_vertical")
_ANY_ROWS = frozenset({"GaussianDropout", "GaussianNoise"})


def around(data: TrainingData, preprocessing: list[keras.Layer]) -> list[keras.Layer]:
    """``preprocessing`` with the layers of ``dataset.augment``: before it those that know images, in their order,
    and behind it noise, which is meant for inputs of about 1.

    Raises:
        TrainingFailed: model_invalid with the field, for arguments that Keras refuses or rows that do not suit.
    """
    before: list[keras.Layer] = []
    after: list[keras.Layer] = []
    for index, item in enumerate(data.augment):
        (after if item.name in _ANY_ROWS else before).append(_made(index, item, data))
    shape: tuple[Any, ...] = (None, *data.input_shape)
    for layer in before:
        try:
            shape = tuple(layer.compute_output_shape(shape))
        except (ValueError, TypeError) as error:
            raise model_invalid("dataset.augment", in_words(error)) from error
    return [*before, *preprocessing, *after]


def _made(index: int, item: KerasObject, data: TrainingData) -> keras.Layer:
    field = f"dataset.augment.{index}"
    if item.name not in _ANY_ROWS and data.input_kind != "image":
        raise TrainingFailed(
            "model_invalid",
            f"{field}: {item.name} is for images, but rows have shape {list(data.input_shape)}",
            "For other rows there are GaussianNoise and GaussianDropout.",
        )
    params = dict(item.params)
    name = f"augment_{index + 1}_{item.name.lower()}"
    if (
        item.name in ("RandomBrightness", "RandomColorJitter", "RandomContrast")
        and "value_range" not in params
    ):
        params["value_range"] = [0.0, data.pixel_scale]
    if (
        item.name == "RandomFlip" and params.get("mode", "horizontal") not in _FLIPS
    ):  # Keras would not flip at all
        raise model_invalid(f"{field}.params", f"mode is one of {', '.join(_FLIPS)}")
    try:
        layer: keras.Layer = getattr(keras.layers, item.name)(**{"name": name, **params})
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise model_invalid(f"{field}.params", in_words(error)) from error
    return layer
