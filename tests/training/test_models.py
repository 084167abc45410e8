"""Models, losses and labels from specs, in the test's own process."""

from __future__ import annotations

import json
from typing import Any

import keras
import numpy as np
import pytest

from services.worker.training import compiling, heads, models
from services.worker.training.data.order import Order
from services.worker.training.data.record import Rows, TrainingData
from services.worker.training.failures import TrainingFailed
from services.worker.training.steps import Steps
from shared.specs import BuilderModel, FitSpec, KerasConfigModel

RNG = np.random.default_rng(3)


def images(size: int = 8, classes: int = 10, rows: int = 40, channels: int = 1) -> TrainingData:
    x = RNG.integers(0, 256, (rows, size, size, channels)).astype(np.uint8)
    y = (np.arange(rows) % classes).astype(np.int32)
    return a_record(x, y, classes, "image")


def table(columns: int = 4, classes: int | None = 3, rows: int = 40) -> TrainingData:
    x = RNG.normal(5, 3, (rows, columns)).astype(np.float32)
    y = x[:, 0] if classes is None else (np.arange(rows) % classes).astype(np.int32)
    return a_record(x, y, classes, "tabular")


def a_record(x: Any, y: Any, classes: int | None, kind: Any) -> TrainingData:
    return TrainingData(
        train=Rows(x, y),
        validation=None,
        test=None,
        task="regression" if classes is None else "classification",
        input_kind=kind,
        classes=None if classes is None else [str(i) for i in range(classes)],
        columns=None,
        fingerprint="sha256:0",
        source="test",
    )


def config_of(*layers: Any, shape: tuple[int, ...] | None = None) -> KerasConfigModel:
    first = [keras.Input(shape)] if shape is not None else []
    return KerasConfigModel.model_validate(
        {"keras_config": json.loads(keras.Sequential([*first, *layers]).to_json())}
    )


def steps_for(model: Any, data: TrainingData, **fit: Any) -> tuple[Steps, compiling.Compiled]:
    head = heads.head_of(model)
    heads.check(head, data)
    compiled = compiling.compile_model(model, FitSpec.model_validate(fit), data, head)
    return Steps(model, data.train, Order(len(data.train), 16, 1), compiled), compiled


def test_lenet5_is_the_textbooks() -> None:
    model = models.build(BuilderModel(builder="lenet5"), images(28))
    assert [layer.name for layer in model.layers][1:3] == ["rescale", "pad"]
    assert model.get_layer("pad").output.shape == (None, 32, 32, 1)
    assert model.get_layer("s4").output.shape == (None, 5, 5, 16)
    assert model.count_params() == 61_706


def test_pixels_are_scaled_and_columns_normalized_inside_the_model() -> None:
    data = table()
    model = models.build(BuilderModel(builder="mlp"), data)
    normalized = np.asarray(model.get_layer("normalize")(data.train.x))
    np.testing.assert_allclose(normalized.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(normalized.std(axis=0), 1, atol=1e-4)
    pictures = images()
    rescaled = np.asarray(
        models.build(BuilderModel(builder="mlp"), pictures).get_layer("rescale")(pictures.train.x)
    )
    assert rescaled.max() <= 1


def test_a_constant_column_does_no_harm() -> None:
    data = table()
    data.train.x[:, 1] = 7
    model = models.build(BuilderModel(builder="mlp"), data)
    assert np.isfinite(np.asarray(model(data.train.x))).all()


def test_lenet5_refuses_a_table() -> None:
    with pytest.raises(TrainingFailed, match="lenet5 takes images") as caught:
        models.build(BuilderModel(builder="lenet5"), table())
    assert caught.value.code == "shape_mismatch"


@pytest.mark.parametrize("shape", [(8, 8, 1), (8, 8), None])
def test_a_sequential_config_trains_whatever_form_its_input_has(shape: tuple[int, ...] | None) -> None:
    spec = config_of(keras.layers.Flatten(), keras.layers.Dense(10, activation="softmax"), shape=shape)
    model = models.build(spec, images())
    steps, _ = steps_for(model, images())
    losses, logs = steps.train(0, 0, 2)
    assert losses.shape == (2,)
    assert set(logs) == {"loss", "accuracy"}


def test_a_functional_config_with_batch_normalization_and_dropout() -> None:
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3)(inputs))
    x = keras.layers.Dropout(0.3)(keras.layers.GlobalAveragePooling2D()(x))
    built = keras.Model(inputs, keras.layers.Dense(10)(x))
    spec = KerasConfigModel(keras_config=json.loads(built.to_json()), preprocessing="rescale")
    model = models.build(spec, images())
    before = [v.numpy() for v in model.non_trainable_variables]
    steps, compiled = steps_for(model, images())
    steps.train(0, 0, 2)
    assert compiled.logits, "a linear head means logits"
    assert any(
        not np.array_equal(a, b.numpy()) for a, b in zip(before, model.non_trainable_variables, strict=True)
    )


@pytest.mark.parametrize(
    ("layers", "shape", "code", "words"),
    [
        (
            [keras.layers.Dense(10)],
            (5,),
            "shape_mismatch",
            "rows of the data have shape [8, 8, 1], but the model expects [5]",
        ),
        (
            [keras.layers.Flatten(), keras.layers.Dense(5)],
            (8, 8, 1),
            "shape_mismatch",
            "labels go up to 9, but the model has 5 outputs",
        ),
        ([keras.layers.Conv2D(10, 3)], (8, 8, 1), "shape_mismatch", "the model's output has shape"),
        ([keras.layers.Conv2D(10, 9), keras.layers.Flatten()], None, "model_invalid", "Computed output size"),
    ],
)
def test_a_config_that_does_not_fit_the_data_is_told_with_both_shapes(
    layers: list[Any], shape: Any, code: str, words: str
) -> None:
    data = images()
    with pytest.raises(TrainingFailed) as caught:
        steps_for(models.build(config_of(*layers, shape=shape), data), data)
    assert caught.value.code == code
    assert words in caught.value.message


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"class_name": "Densest"}, "can't build it"),
        ({"config": {"units": -3}}, "can't build it"),
        ({"config": {"units": 3, "flavour": "x"}}, "flavour"),
    ],
)
def test_a_config_that_keras_does_not_know_fails_in_words(change: dict[str, Any], words: str) -> None:
    spec = config_of(keras.layers.Dense(3), shape=(4,))
    layer = spec.keras_config["config"]["layers"][1]
    layer.update(change)
    with pytest.raises(TrainingFailed, match=words) as caught:
        models.build(spec, table())
    assert caught.value.code == "model_invalid"
    assert len(caught.value.message) < 700


@pytest.mark.parametrize(
    ("units", "activation", "classes", "fit", "labels", "loss"),
    [
        (3, "softmax", 3, {}, "sparse", "SparseCategoricalCrossentropy"),
        (3, "softmax", 3, {"loss": "categorical_crossentropy"}, "one_hot", "CategoricalCrossentropy"),
        (3, "softmax", 3, {"metrics": ["Precision"]}, "one_hot", "CategoricalCrossentropy"),
        (3, None, 3, {"loss": "kl_divergence"}, "one_hot", "KLDivergence"),
        (1, "sigmoid", 2, {}, "column", "BinaryCrossentropy"),
        (1, None, 2, {"metrics": ["accuracy", "AUC"]}, "column", "BinaryCrossentropy"),
        (1, None, None, {"loss": {"name": "Huber", "params": {"delta": 2.0}}}, "numbers", "Huber"),
        (1, None, None, {"metrics": ["mae", "r2_score"]}, "numbers", "MeanSquaredError"),
    ],
)
def test_labels_take_the_form_that_loss_and_metrics_need(
    units: int, activation: str | None, classes: int | None, fit: dict[str, Any], labels: str, loss: str
) -> None:
    data = table(classes=classes)
    model = models.build(config_of(keras.layers.Dense(units, activation=activation), shape=(4,)), data)
    steps, compiled = steps_for(model, data, **fit)
    assert (compiled.labels, compiled.loss) == (labels, loss)
    losses, logs = steps.train(0, 0, 3)
    assert np.isfinite(losses).all()
    assert logs["loss"] == pytest.approx((losses[0] * 16 + losses[1] * 16 + losses[2] * 8) / 40, rel=1e-5)


def test_a_sparse_loss_with_a_metric_that_needs_one_hot_rows_is_told() -> None:
    data = table()
    model = models.build(BuilderModel(builder="mlp"), data)
    with pytest.raises(TrainingFailed, match=r"fit\.metrics"):
        steps_for(model, data, loss="sparse_categorical_crossentropy", metrics=["Recall"])


@pytest.mark.parametrize("name", ["adam", "SGD", "Lion", "muon", "schedulefreeadamw", "Ftrl"])
def test_optimizers_by_name_with_the_learning_rate_of_the_spec(name: str) -> None:
    data = table()
    model = models.build(BuilderModel(builder="mlp"), data)
    steps, compiled = steps_for(model, data, optimizer=name, learning_rate=0.0125)
    steps.train(0, 0, 2)
    assert compiled.optimizer.lower() == name.lower()
    assert float(model.optimizer.learning_rate) == pytest.approx(0.0125)


def test_a_learning_rate_schedule_in_the_params() -> None:
    data = table()
    model = models.build(BuilderModel(builder="mlp"), data)
    schedule = {
        "class_name": "ExponentialDecay",
        "config": {"initial_learning_rate": 0.1, "decay_steps": 10, "decay_rate": 0.5},
    }
    steps, _ = steps_for(model, data, optimizer={"name": "SGD", "params": {"learning_rate": schedule}})
    steps.train(0, 0, 1)
    assert float(model.optimizer.learning_rate) < 0.1
