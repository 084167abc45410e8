"""Models that the user's ``build_model`` returns, brought into the one form that training knows: Functional."""

from __future__ import annotations

from typing import Any

import keras

from services.worker.training import keras_config, own_compile
from services.worker.training.data.record import TrainingData
from services.worker.training.failures import TrainingFailed, model_invalid
from services.worker.training.user_code import Code, guarded
from shared.specs import UserModel


def build(spec: UserModel, code: Code, data: TrainingData, before: list[Any], alias: str) -> keras.Model:
    """The user's model behind ``before`` (preprocessing layers), with an input called ``alias`` if it has none.

    A model that comes compiled stays compiled: optimizer, loss and metrics are its own unless the job names others.

    Raises:
        TrainingFailed: user_code, model_invalid, shape_mismatch.
    """
    inner = code.call(spec.builder, "build_model", spec.params)
    what = f"build_model of {spec.builder}"
    if not isinstance(inner, keras.Model):
        raise TrainingFailed(
            "user_code",
            f"{what} returned {_described(inner)}, not a Keras model",
            "Return a keras.Model, compiled or not; not its weights, a list or nothing.",
        )
    _refuse_own_loops(inner, what)
    if keras_config.is_plain(inner) and (len(inner.inputs) != 1 or len(inner.outputs) != 1):
        raise model_invalid(
            "model.builder",
            f"the model of {what} has {len(inner.inputs)} inputs and {len(inner.outputs)} outputs; one of each is "
            "supported",
        )
    reshape = keras_config.fit_input(inner, data.input_shape)
    if reshape is not None:
        before = [*before, keras.layers.Reshape(reshape, name="as_model_expects")]
    if not before and keras_config.is_plain(inner):
        return inner
    with guarded(what):
        inputs = keras.Input(data.input_shape, name=alias)
        outputs = inputs
        for layer in [*before, inner]:
            outputs = layer(outputs)
        outer = keras.Model(inputs, outputs, name=f"with_{inner.name}")
    own = own_compile.of(inner)
    if own is not None:
        outer.compile(optimizer=own.optimizer, loss=own.loss, metrics=own.metrics)
    return outer


def _refuse_own_loops(model: keras.Model, what: str) -> None:
    """Modelyard trains with a loop of its own (exact resume, strategies); a step it never calls would be a lie."""
    for name in ("train_step", "test_step", "compute_loss", "compute_metrics", "fit"):
        owner = next((kind for kind in type(model).__mro__ if name in vars(kind)), None)
        if owner is not None and not owner.__module__.startswith("keras."):
            raise model_invalid(
                "model.builder",
                f"the model of {what} overrides {name}, which is not called here",
                "Write losses as keras.Loss or with add_loss in a layer; the loop of training is Modelyard's own.",
            )


def _described(value: Any) -> str:
    if value is None:
        return "nothing (None)"
    if isinstance(value, keras.Layer):
        return f"a layer ({type(value).__name__})"
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    return f"a {type(value).__name__}"
