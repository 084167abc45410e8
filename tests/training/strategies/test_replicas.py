"""Replicas against one device at the same global batch: weights, losses, metrics and evaluation, to 1e-5."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from services.worker.training.failures import TrainingFailed
from services.worker.training.strategies import central_storage, mirrored, one_device
from services.worker.training.strategies.opened import OpenStrategy
from services.worker.training.strategies.slices import Slices
from shared.specs import CentralStorageStrategy, MirroredStrategy, OneDeviceStrategy
from tests.training.strategies.equality import (
    ONE,
    Trained,
    assert_equal,
    conv_bn_dropout,
    dense,
    prepared,
    train,
)

STRATEGIES: dict[str, Callable[[], OpenStrategy]] = {
    "one_device": lambda: one_device.open(OneDeviceStrategy(device="CPU:1")),
    "mirrored": lambda: mirrored.open(MirroredStrategy(devices=["CPU:0", "CPU:1"])),
    "mirrored_3": lambda: mirrored.open(MirroredStrategy()),
    "hierarchical": lambda: mirrored.open(
        MirroredStrategy(devices=["CPU:0", "CPU:1"], cross_device_ops="hierarchical_copy")
    ),
    "central_storage": lambda: central_storage.open(CentralStorageStrategy(devices=["CPU:0", "CPU:1"])),
}
L = keras.layers


@pytest.fixture(scope="module")
def alone() -> Trained:
    return train(ONE)


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_model_with_batch_normalisation_and_dropout(name: str, alone: Trained) -> None:
    # 49 rows in batches of 12: the last one of an epoch has a single row, fewer than there are replicas
    opened = STRATEGIES[name]()
    assert opened.replicas == {"one_device": 1, "mirrored_3": 3}.get(name, 2)
    assert_equal(alone, train(opened))


def clipped(**how: float) -> dict[str, Any]:
    return {"name": "SGD", "params": {"learning_rate": 0.05, "momentum": 0.9, **how}}


VARIANTS: dict[str, dict[str, Any]] = {
    "clipnorm": {"optimizer": clipped(clipnorm=0.05)},
    "global_clipnorm": {"optimizer": clipped(global_clipnorm=0.1)},
    "clipvalue": {"optimizer": clipped(clipvalue=0.001)},
    "adamw_with_averages": {
        "optimizer": {"name": "AdamW", "params": {"weight_decay": 0.01, "use_ema": True, "ema_momentum": 0.9}}
    },
    "class_weights": {"class_weight": np.linspace(0.2, 3, 10).astype(np.float32)},
    "streamed": {"streamed": True},
    "steps_per_epoch": {"steps_per_epoch": 3},
}


@functools.cache
def on_one_device(name: str) -> Trained:
    return train(ONE, **variant(name))


def variant(name: str) -> dict[str, Any]:
    # all layers and metrics have been compared above
    return {"model": dense(), "metrics": ["accuracy"], **VARIANTS[name]}


@pytest.mark.parametrize("name", VARIANTS)
def test_however_it_is_trained(name: str) -> None:
    assert_equal(on_one_device(name), train(STRATEGIES["mirrored"](), **variant(name)))


@pytest.mark.parametrize("name", ["global_clipnorm", "class_weights"])
def test_with_central_storage(name: str) -> None:
    assert_equal(on_one_device(name), train(STRATEGIES["central_storage"](), **variant(name)))


def test_clipping_does_clip() -> None:
    unclipped = train(ONE, model=dense(), metrics=["accuracy"], optimizer=clipped())
    for name in ("clipnorm", "global_clipnorm", "clipvalue"):
        with pytest.raises(AssertionError):
            assert_equal(unclipped, on_one_device(name))


def noisy() -> keras.Model:
    """Other layers that draw random numbers, and a batch normalisation that is given a mask."""
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Rescaling(1 / 255),
            L.RandomFlip("horizontal", seed=1),
            L.GaussianNoise(0.1, seed=2),
            L.Reshape((8, 8)),
            L.Masking(),
            L.BatchNormalization(),
            L.SimpleRNN(6, dropout=0.3, recurrent_dropout=0.2, seed=3),
            L.AlphaDropout(0.2, seed=4),
            L.Dense(10),
        ]
    )


def test_other_layers_that_draw_random_numbers() -> None:
    one, many = (
        train(opened, model=noisy(), metrics=["accuracy"], epochs=1)
        for opened in (ONE, STRATEGIES["mirrored"]())
    )
    assert_equal(one, many)
    assert many.steps.step.own_randomness == []


def test_float16_with_a_scaled_loss() -> None:
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        one, many = (
            train(opened, model=conv_bn_dropout(), metrics=["accuracy"])
            for opened in (ONE, STRATEGIES["mirrored"]())
        )
    finally:
        keras.mixed_precision.set_dtype_policy("float32")
    assert type(many.steps.model.optimizer).__name__ == "LossScaleOptimizer"
    assert_equal(one, many, tolerance=2e-2)  # three decimal digits of a float16


def test_slices_cover_a_batch_and_short_ones_go_to_all() -> None:
    slices = Slices(3)
    for total in range(1, 11):
        found = [tuple(map(int, slices.of(replica, tf.constant(total)))) for replica in range(3)]
        shares = [float(slices.share(replica, tf.constant(total))) for replica in range(3)]
        assert sum(shares) == pytest.approx(1)
        if total < 3:
            assert found == [(0, total)] * 3
        else:
            assert found[0][0] == 0
            assert found[-1][1] == total
            assert [end for _, end in found[:-1]] == [begin for begin, _ in found[1:]]
    middle = Slices(4, first=1, here=2)
    assert middle.local(tf.range(8)).numpy().tolist() == [2, 3, 4, 5]
    assert middle.local(tf.range(3)).numpy().tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (
            {"optimizer": {"name": "adam", "params": {"gradient_accumulation_steps": 2}}},
            "gradient_accumulation",
        ),
        ({"loss": {"name": "Dice"}}, "fit.loss"),
    ],
)
def test_what_replicas_can_not_do_is_refused(change: dict[str, Any], field: str) -> None:
    with pytest.raises(TrainingFailed, match=field) as caught:
        train(STRATEGIES["mirrored"](), **change)
    assert caught.value.code == "model_invalid"


def test_xla_is_refused() -> None:
    with pytest.raises(TrainingFailed, match="XLA") as caught:
        prepared(STRATEGIES["mirrored"](), xla=True)
    assert caught.value.code == "strategy_unavailable"
