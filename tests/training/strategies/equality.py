"""Trains one small model on one device and on replicas, at the same global batch, and compares all that comes out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import pytest

from services.worker.training import compiling, heads, runtime
from services.worker.training.data.order import Order
from services.worker.training.data.record import TrainingData
from services.worker.training.state import State
from services.worker.training.steps import Steps
from services.worker.training.strategies.opened import OpenStrategy
from services.worker.training.streamed import StreamedSteps
from shared.specs import FitSpec
from tests.training.test_models import a_record

TOLERANCE = 1e-5
# a mean, and one that is not
BOTH_KINDS = ("accuracy", {"name": "AUC", "params": {"name": "auc", "from_logits": True}})
ONE = OpenStrategy("default")
_RANDOM = np.random.default_rng(3)
IMAGES = a_record(
    _RANDOM.integers(0, 256, (49, 8, 8, 1)).astype(np.uint8),
    (np.arange(49) % 10).astype(np.int32),
    10,
    "image",
)


def conv_bn_dropout() -> keras.Model:
    """What replicas most easily get wrong, in one model."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(4, 3, use_bias=False),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.ReLU(),
            keras.layers.SpatialDropout2D(0.2, seed=3),
            keras.layers.Flatten(),
            keras.layers.Dense(16, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01)),
            keras.layers.Dropout(0.4, seed=4),
            keras.layers.Dense(10),
        ]
    )


def dense() -> keras.Model:
    """Enough for what lies behind the layers: the loss and its parts, clipping, optimizers, the order of rows."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(8, activation="relu", kernel_regularizer=keras.regularizers.L2(0.01)),
            keras.layers.Dropout(0.4, seed=4),
            keras.layers.Dense(10),
        ]
    )


@dataclass
class Trained:
    state: dict[str, np.ndarray[Any, Any]]
    losses: np.ndarray[Any, Any]
    logs: dict[str, float]
    tested: dict[str, float]
    steps: Steps


def prepared(
    opened: OpenStrategy,
    *,
    model: keras.Model | None = None,
    optimizer: Any = "adam",
    loss: Any = None,
    metrics: Any = BOTH_KINDS,
    batch: int = 12,
    data: TrainingData = IMAGES,
    streamed: bool = False,
    steps_per_epoch: int | None = None,
    class_weight: Any = None,
    xla: bool = False,
) -> Steps:
    """Steps on 49 images: with the batch of 12, the last one of an epoch has one row."""
    runtime.without_memory_optimizer()
    keras.utils.set_random_seed(7)
    config = (model or conv_bn_dropout()).to_json()
    fit = FitSpec.model_validate({"optimizer": optimizer, "loss": loss, "metrics": list(metrics)})
    with opened.scope():
        built = keras.models.model_from_json(config)
    head = heads.head_of(built)
    compiled = compiling.compile_model(built, fit, data, head, opened.scope)
    compiled = replace(compiled, class_weight=class_weight)
    built.jit_compile = xla
    order = Order(len(data.train), batch, seed=5, steps_per_epoch=steps_per_epoch)
    return (StreamedSteps if streamed else Steps)(built, data.train, order, compiled, opened)


def train(opened: OpenStrategy, *, epochs: int = 2, **options: Any) -> Trained:
    """``epochs`` over the rows, in two calls each, and an evaluation; ``options`` are those of ``prepared``."""
    steps = prepared(opened, **options)
    losses = []
    for epoch in range(epochs):
        steps.reset()
        losses.append(steps.train(epoch, 0, 2)[0])
        more, logs = steps.train(epoch, 2, steps.order.steps - 2)
        losses.append(more)
    steps.reset()
    rows = (IMAGES.train.x[:37], IMAGES.train.y[:37])
    tested = steps.test(rows, 0, -(-37 // steps.order.batch))
    return Trained(State(steps.model, steps, {}).take(), np.concatenate(losses), logs, tested, steps)


def assert_equal(one: Trained, many: Trained, tolerance: float = TOLERANCE) -> None:
    """All variables (weights, moving means, optimizer, seeds), each step's loss, the means, the evaluation."""
    np.testing.assert_allclose(many.losses, one.losses, atol=tolerance, rtol=tolerance)
    assert many.logs == pytest.approx(one.logs, abs=tolerance, rel=tolerance)
    assert many.tested == pytest.approx(one.tested, abs=tolerance, rel=tolerance)
    trained = {name: value for name, value in one.state.items() if not name.startswith("metrics/")}
    for name, value in trained.items():
        np.testing.assert_allclose(many.state[name], value, atol=tolerance, rtol=tolerance, err_msg=name)
