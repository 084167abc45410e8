"""Mixed precision for a model that is built already: what computes in the policy's type, and what stays float32.

The global policy (``devices.apply``) reaches only layers that are made after it and name no dtype. Architectures in
JSON name one for each layer, and the last layer must not have it: a softmax in float16 loses small probabilities.
"""

from __future__ import annotations

from collections.abc import Iterator

import keras

from services.worker.training.emitter import Emitter
from shared.specs.devices import Precision


def settle(model: keras.Model, policy: Precision, emit: Emitter) -> None:
    """Give ``model``, not yet compiled, the policy in place; weights stay as they are.

    The last layer and Keras' preprocessing layers stay float32: the first for its outputs, the others for inputs
    that half precision can't hold.
    """
    if policy == "float32":
        return
    kept = set(map(id, _last(model)))
    for layer in model._flatten_layers():  # with the cells of recurrent layers, which .layers leaves out
        is_input = type(layer).__module__.startswith("keras.src.layers.preprocessing")
        layer.dtype_policy = "float32" if id(layer) in kept or is_input else policy
    ends = {id(weight) for layer in _last(model) for weight in layer.weights}
    inner = [weight.dtype for weight in model.trainable_weights if id(weight) not in ends]
    if policy == "bfloat16" and "float32" in inner:
        emit.warn(
            "weights_stay_float32",
            "bfloat16: this architecture names float32 for its weights, so they stay so and only the computation is "
            "in bfloat16, as with mixed_bfloat16.",
        )
    if not isinstance(model, keras.Sequential) and not model.inputs:
        emit.warn(
            "outputs_not_float32",
            f"{policy}: the last layer of a subclassed model can't be told from outside; give it dtype='float32'.",
        )


def scaled(optimizer: keras.Optimizer, model: keras.Model) -> keras.Optimizer:
    """``optimizer``, or for a mixed_float16 ``model`` one that scales the loss, lest small gradients become 0.

    Keras' compile would do so too, but would write the inner one into the saved model, which then can't be loaded.
    """
    wanted = model.dtype_policy.name == "mixed_float16"
    if not wanted or isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return optimizer
    return keras.optimizers.LossScaleOptimizer(optimizer, name="loss_scale_optimizer")


def _last(model: keras.Model) -> Iterator[keras.Layer]:
    layer = model
    while isinstance(layer, keras.Model) and layer.layers:
        layer = layer.layers[-1]
    yield layer
    if not isinstance(layer, keras.Model):
        yield from layer._flatten_layers(include_self=False)
