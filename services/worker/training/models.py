"""Models from a spec: the built-in builders, the user's own, and any architecture in Keras' own JSON.

Preprocessing is part of the model, so that training and serving can't disagree about it: what goes in is a row as
the data have it, raw pixels or raw columns.
"""

from __future__ import annotations

from typing import Any

import keras

from services.worker.training import augmentation, columns, continued, keras_config, user_models
from services.worker.training.continued import Start
from services.worker.training.data.moments import mean_and_variance
from services.worker.training.data.record import TrainingData
from services.worker.training.failures import TrainingFailed, explain, model_invalid, shorten
from services.worker.training.user_code import Code
from shared.specs import (
    BuilderModel,
    FromFileModel,
    KerasConfigModel,
    Lenet5Params,
    MlpParams,
    ModelSpec,
    TrainedModel,
    UserModel,
)

LENET_SIZE = (
    32  # LeCun et al. 1998 centre 28x28 digits in 32x32, so that strokes reach the centre of C3's windows
)


def build(
    spec: ModelSpec, data: TrainingData, code: Code | None = None, start: Start | None = None
) -> keras.Model:
    """A model with one input of ``data.input_shape`` and one output [batch, units].

    It is uncompiled, unless it is the user's and came compiled.

    Raises:
        TrainingFailed: model_invalid if it can't be built, shape_mismatch if it does not fit the data.
    """
    try:
        if isinstance(spec, UserModel):
            before = augmentation.around(data, preprocessing(spec.preprocessing, data))
            model = user_models.build(spec, code or Code(()), data, before, input_alias(data))
        elif isinstance(spec, BuilderModel):
            model = _from_builder(spec, data)
        elif isinstance(spec, TrainedModel):
            model = _continued(spec, data, start)
        else:
            model = _from_config(spec, data)
    except (ValueError, TypeError) as error:
        known = explain(error)
        if known.code == "shape_mismatch":
            raise known from error
        raise model_invalid("model", shorten(str(error), 600)) from error
    if len(model.output_shape) != 2 or model.output_shape[1] is None:
        raise TrainingFailed(
            "shape_mismatch",
            f"the model's output has shape {list(model.output_shape)}; [batch, units] is needed",
            "End the model with Flatten or a pooling layer and a Dense layer.",
        )
    return model


def _continued(spec: TrainedModel, data: TrainingData, start: Start | None) -> keras.Model:
    if start is None:
        raise TrainingFailed("request_invalid", "the request names no model to go on from")
    inner = start.inner(spec, data, lambda architecture: build(architecture, data))
    inner = continued.adapt(spec, inner, _head(data))
    kind = spec.preprocessing if isinstance(spec, FromFileModel) else "none"
    return _behind_preprocessing(inner, kind, data)


def input_alias(data: TrainingData) -> str:
    """The name of the input, in the model and in its signatures."""
    return "image" if data.input_kind == "image" else "features"


def _from_builder(spec: BuilderModel, data: TrainingData) -> keras.Model:
    params = spec.typed_params()
    inputs = keras.Input(data.input_shape, name=input_alias(data))
    outputs = inputs
    for layer in augmentation.around(data, preprocessing(spec.preprocessing, data)):
        outputs = layer(outputs)
    layers = _lenet5(data) if isinstance(params, Lenet5Params) else _mlp(params)
    for layer in [*layers, _head(data)]:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs, name=spec.builder)


def _head(data: TrainingData) -> keras.Layer:
    if data.classes is not None:
        return keras.layers.Dense(len(data.classes), activation="softmax", name="probabilities")
    numbers = 1 if data.train.y.ndim == 1 else int(data.train.y.shape[1])
    return keras.layers.Dense(numbers, name="value")


def _lenet5(data: TrainingData) -> list[keras.Layer]:
    if data.input_kind != "image":
        raise TrainingFailed(
            "shape_mismatch",
            f"lenet5 takes images, but rows have shape {list(data.input_shape)}",
            "Use the builder mlp for tabular data, or save images as [rows, height, width, channels].",
        )
    layers = keras.layers
    height, width, _ = data.input_shape
    missing = [max(0, LENET_SIZE - size) for size in (height, width)]
    padding = [(size // 2, size - size // 2) for size in missing]
    return [
        *([layers.ZeroPadding2D(padding, name="pad")] if any(missing) else []),
        layers.Conv2D(6, 5, activation="relu", name="c1"),
        layers.MaxPooling2D(2, name="s2"),
        layers.Conv2D(16, 5, activation="relu", name="c3"),
        layers.MaxPooling2D(2, name="s4"),
        layers.Flatten(name="flatten"),
        layers.Dense(120, activation="relu", name="f5"),
        layers.Dense(84, activation="relu", name="f6"),
    ]


def _mlp(params: MlpParams) -> list[keras.Layer]:
    found: list[keras.Layer] = [keras.layers.Flatten(name="flatten")]
    for number, units in enumerate(params.units, start=1):
        found.append(keras.layers.Dense(units, activation="relu", name=f"d{number}"))
        if params.dropout:
            found.append(keras.layers.Dropout(params.dropout, name=f"dropout{number}"))
    return found


def preprocessing(kind: str, data: TrainingData) -> list[keras.Layer]:
    """Layers between the raw row and the architecture.

    rescale: bytes are divided by 255, other images by the largest training value (if it is over 1).
    normalize: each column by mean and variance of the training rows, which become part of the model.
    Either also makes categories of a table one-hot rows or embeddings; with none their codes come as they are.
    """
    if kind == "auto":
        kind = {"image": "rescale", "tabular": "normalize", "tensor": "none"}[data.input_kind]
    if kind == "rescale":
        if data.table is not None:
            return [columns.encoder(data.table, data.train.x, normalize=False)]
        scale = data.pixel_scale
        return [keras.layers.Rescaling(1.0 / scale, name="rescale")] if scale != 1.0 else []
    if kind == "normalize":
        if data.table is not None:
            return [columns.encoder(data.table, data.train.x, normalize=True)]
        mean, variance = mean_and_variance(data.train.x)
        variance[variance == 0] = 1.0  # a constant column carries nothing; it must not become NaN either
        return [keras.layers.Normalization(mean=mean.tolist(), variance=variance.tolist(), name="normalize")]
    return []


def _from_config(spec: KerasConfigModel, data: TrainingData) -> keras.Model:
    return _behind_preprocessing(keras_config.read(spec.keras_config), spec.preprocessing, data)


def _behind_preprocessing(inner: keras.Model, kind: str, data: TrainingData) -> keras.Model:
    """``inner`` behind augmentation and preprocessing layers, and a change of shape, where it takes any."""
    before: list[Any] = augmentation.around(data, preprocessing(kind, data))
    encoders = [layer for layer in before if isinstance(layer, keras.Model)]
    shape = tuple(encoders[0].output_shape[1:]) if encoders else data.input_shape
    reshape = keras_config.fit_input(inner, shape)
    if reshape is not None:
        before.append(keras.layers.Reshape(reshape, name="as_model_expects"))
    if not before and keras_config.is_plain(inner):
        return inner
    inputs = keras.Input(data.input_shape, name=input_alias(data))
    outputs = inputs
    for layer in [*before, inner]:
        outputs = layer(outputs)
    return keras.Model(inputs, outputs, name=f"with_preprocessing_{inner.name}" if before else inner.name)
