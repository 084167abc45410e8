"""Architectures in Keras' own JSON: read in safe mode, so that no config can run code, and matched with the data."""

from __future__ import annotations

from typing import Any

import keras

from services.worker.training.failures import TrainingFailed, model_invalid, shorten

_FIELD = "model.keras_config"


def read(config: dict[str, Any]) -> keras.Model:
    """The model that ``config`` describes, uncompiled, with fresh weights.

    Raises:
        TrainingFailed: model_invalid, for unknown classes, bad arguments and code.
    """
    # what to train with is the spec's fit, never what the model once was compiled with
    plain = {key: value for key, value in config.items() if key != "compile_config"}
    try:
        model = keras.saving.deserialize_keras_object(plain, safe_mode=True)
    except TrainingFailed:
        raise
    except Exception as error:
        raise model_invalid(
            _FIELD,
            f"Keras {keras.__version__} can't build it: {in_words(error)}",
            "Only Keras' own layers are known here. Write the JSON with model.to_json() in Keras 3.",
        ) from error
    if not isinstance(model, keras.Model):
        raise model_invalid(_FIELD, f"it describes a {type(model).__name__}, not a model")
    if not model.layers:
        raise model_invalid(_FIELD, "the model has no layers")
    if is_plain(model) and (len(model.inputs) != 1 or len(model.outputs) != 1):
        raise model_invalid(
            _FIELD,
            f"it has {len(model.inputs)} inputs and {len(model.outputs)} outputs; one of each is supported",
        )
    return model


def is_plain(model: keras.Model) -> bool:
    """True when its input is known, as for Functional models and for Sequential ones with an Input."""
    return bool(getattr(model, "inputs", None))


def fit_input(model: keras.Model, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """What rows of ``shape`` must be reshaped to for ``model``, or None. Only a last axis of 1 is added or dropped.

    Raises:
        TrainingFailed: shape_mismatch, with both shapes.
    """
    if not is_plain(model):
        return None
    expected = tuple(model.inputs[0].shape[1:])
    if _agree(expected, shape):
        return None
    if _agree(expected, (*shape, 1)):
        return (*shape, 1)
    if shape[-1] == 1 and _agree(expected, shape[:-1]):
        return shape[:-1]
    raise TrainingFailed(
        "shape_mismatch",
        f"rows of the data have shape {list(shape)}, but the model expects {list(expected)}",
        "Change the model's input shape, or save the data in the shape it expects.",
    )


def _agree(expected: tuple[int | None, ...], shape: tuple[int, ...]) -> bool:
    return len(expected) == len(shape) and all(
        want is None or want == got for want, got in zip(expected, shape, strict=True)
    )


def in_words(error: Exception) -> str:
    """What is wrong, out of Keras' messages, which wrap the cause in advice and whole configs."""
    text = str(error).rsplit("Exception encountered:", 1)[-1]
    for noise in ("Full object config:", "Config of", "config={", "Make sure custom classes", "\n\n"):
        text = text.split(noise, 1)[0] if text.split(noise, 1)[0].strip() else text
    return shorten(text, 500)
