"""What a model of the user's own came compiled with, and what it means for the form of the labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras

from shared.specs import keras_names


@dataclass(frozen=True, slots=True)
class OwnCompile:
    """Optimizer, loss and metrics as they were given to ``compile``: names, objects or functions."""

    optimizer: Any
    loss: Any
    metrics: list[Any] | None


def of(model: keras.Model) -> OwnCompile | None:
    """None for a model that is not compiled."""
    if not model.compiled:
        return None
    given: dict[str, Any] = model._compile_config.config
    metrics = [*_listed(given.get("metrics")), *_listed(given.get("weighted_metrics"))]
    loss = given.get("loss")
    if isinstance(loss, list | tuple) and len(loss) == 1:
        loss = loss[0]
    return OwnCompile(given.get("optimizer"), loss, metrics or None)


def _listed(value: Any) -> list[Any]:
    if value is None:
        return []
    while isinstance(value, list | tuple) and len(value) == 1 and isinstance(value[0], list | tuple):
        value = value[0]  # one list for the one output
    return list(value) if isinstance(value, list | tuple) else [value]


def loss_name(loss: Any) -> str | None:
    """The class name of one of Keras' own losses, however it was given; None for a loss of the user's."""
    if isinstance(loss, str | dict) or callable(loss):
        try:
            loss = keras.losses.get(loss)
        except ValueError:
            return None
    if isinstance(loss, keras.Loss):
        kind = type(loss)
    else:
        # a function of Keras' own has its class beside it
        kind = _CLASSES.get(getattr(loss, "__name__", ""), type(None))
        if getattr(keras.losses, getattr(loss, "__name__", ""), None) is not loss:
            return None
    return kind.__name__ if getattr(keras.losses, kind.__name__, None) is kind else None


def from_logits(loss: Any) -> bool:
    """Whether a loss takes logits."""
    if not isinstance(loss, keras.Loss):
        return False
    known = getattr(loss, "_fn_kwargs", {}).get("from_logits", getattr(loss, "from_logits", False))
    return bool(known)


def name_of(thing: Any) -> str:
    """What the job calls a loss or metric."""
    if isinstance(thing, str):
        return thing
    if isinstance(thing, dict):
        return str(thing.get("class_name", "dict"))
    return str(getattr(thing, "name", None) or getattr(thing, "__name__", None) or type(thing).__name__)


_CLASSES: dict[str, type] = {
    name: kind
    for kind in vars(keras.losses).values()
    if isinstance(kind, type) and issubclass(kind, keras.Loss)
    for name in (keras_names._snake(kind.__name__),)
}
