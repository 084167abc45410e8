"""Estimates what a model's training steps take in memory, from its layers' output shapes and its weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import keras

from services.worker.memory import Footprint, available_bytes

# A layer's output is kept for the backward pass, where its gradient joins it; ops inside a layer (a bias, an
# activation, im2col of a convolution) make about as much again.
COPIES = 3


def of(model: keras.Model) -> Footprint | None:
    """What a step of ``model`` takes; call it just before the first. None when the layers do not tell their shapes,
    as in a subclassed model.
    """
    outputs = list(_output_bytes(model))
    if not outputs or None in outputs:
        return None
    return Footprint(
        row_bytes=COPIES * sum(count for count in outputs if count),
        gradient_bytes=sum(
            math.prod(weight.shape) * _item_size(weight.dtype) for weight in model.trainable_variables
        ),
        available_bytes=available_bytes(),
    )


def _output_bytes(model: keras.Model) -> Iterator[int | None]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _output_bytes(layer)
            continue
        try:
            outputs = layer.output
        except (AttributeError, ValueError):
            yield None
            continue
        yield sum(_row_bytes(tensor) for tensor in keras.tree.flatten(outputs))


def _row_bytes(tensor: Any) -> int:
    return int(math.prod(size or 1 for size in tensor.shape[1:])) * _item_size(tensor.dtype)


def _item_size(dtype: str) -> int:
    return {"float64": 8, "int64": 8, "float16": 2, "bfloat16": 2, "int8": 1, "uint8": 1, "bool": 1}.get(
        dtype, 4
    )
