"""A copy of a compiled model that shares nothing with it: other layers, other variables, another optimizer."""

from __future__ import annotations

from typing import Any

import keras

from services.worker.training.failures import shorten


class NoTwin(Exception):
    """A layer or the optimizer can't be made again from its configuration."""


def of(model: keras.Model) -> keras.Model:
    """A copy of ``model``, with first values of its own, compiled and with its optimizer built.

    Raises:
        NoTwin: something of the user's own has no configuration.
    """
    try:
        copy = keras.models.clone_model(model)
        optimizer = type(model.optimizer).from_config(model.optimizer.get_config())
        copy.compile(optimizer, loss=model.loss, metrics=_metrics(model))
        copy.optimizer.build(copy.trainable_variables)
    except (TypeError, ValueError, AttributeError, NotImplementedError, KeyError) as error:
        raise NoTwin(shorten(f"{type(error).__name__}: {error}", 300)) from error
    if _shapes(copy) != _shapes(model):
        raise NoTwin("its copy has other variables")
    return copy


def _metrics(model: keras.Model) -> list[Any]:
    given = model.get_compile_config().get("metrics") or []
    given = given["config"] if isinstance(given, dict) and "config" in given else given
    return [keras.metrics.deserialize(metric) if isinstance(metric, dict) else metric for metric in given]


def _shapes(model: keras.Model) -> list[tuple[Any, ...]]:
    groups = (model.variables, model.trainable_variables, model.optimizer.variables)
    return [tuple(variable.shape) for group in groups for variable in group]
