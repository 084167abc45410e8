"""What a job may ask for, and how a refusal reads."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from shared.specs import MlpParams, parse_job
from tests.builders import train_request, train_spec


def refusal(**changes: Any) -> str:
    """The one error that a request with ``changes`` gives: path below the kind, and message."""
    with pytest.raises(ValidationError) as caught:
        parse_job(train_request(**changes))
    errors = caught.value.errors()
    assert len(errors) == 1, errors
    kind, *path = errors[0]["loc"]
    assert kind == "train"
    return ".".join(str(part) for part in path) + ": " + errors[0]["msg"]


def test_defaults_are_filled_in_and_a_spec_survives_the_store() -> None:
    spec = parse_job(train_request())
    assert spec.fit.batch_size == 128
    assert spec.retry.max_attempts == 3
    assert parse_job(spec.model_dump(mode="json")) == spec


def test_unknown_fields_are_refused_with_their_path() -> None:
    assert refusal(epochs=3).startswith("epochs: Extra inputs")
    assert refusal(fit={"epoch": 3}).startswith("fit.epoch: Extra inputs")
    assert "units_" in refusal(model={"builder": "mlp", "params": {"units_": 3}})


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "a" * 64, "1234", "modèle", "a b", "a\n"])
def test_model_names_that_are_no_safe_folder_are_refused(name: str) -> None:
    assert "publish" in refusal(publish={"model": name}) or "publish.model" in refusal(
        publish={"model": name}
    )


def test_wrong_types_and_ranges_name_the_field() -> None:
    assert refusal(fit={"epochs": 0}).startswith("fit.epochs")
    assert refusal(fit={"batch_size": "many"}).startswith("fit.batch_size")
    assert refusal(fit={"learning_rate": -1}).startswith("fit.learning_rate")
    assert refusal(checkpoint={"every": 0}).startswith("checkpoint.every")


def test_a_mistyped_keras_name_gets_a_suggestion() -> None:
    assert "did you mean 'adam'" in refusal(fit={"optimizer": "adm"})
    assert "metric 'acuracy'" in refusal(fit={"metrics": ["acuracy"]})
    assert "EarlyStopping" in refusal(fit={"callbacks": ["EarlyStoping"]})
    assert "LambdaCallback" in refusal(fit={"callbacks": ["LambdaCallback"]})


def test_exactly_one_kind_of_model_and_of_data_is_named() -> None:
    assert "exactly one" in refusal(model={})
    assert "exactly one" in refusal(dataset={"tfds": "mnist", "npz": "ds_x"})
    assert refusal(dataset={"tfds": "../etc"}).startswith("dataset.tfds")


def test_mlp_units_may_be_text_as_in_a_search_space() -> None:
    assert MlpParams.model_validate({"units": "128,64"}).units == [128, 64]
    assert MlpParams.model_validate({"units": 64}).units == [64]
    with pytest.raises(ValidationError):
        MlpParams.model_validate({"units": "128,x"})


def layer(class_name: str, **more: Any) -> dict[str, Any]:
    return {"class_name": class_name, "config": {}, "module": "keras.layers", **more}


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (layer("Lambda"), "carries code"),
        (layer("__lambda__"), "carries code"),
        (layer("TFSMLayer"), "carries code"),
        (layer("Dense", module="os"), "os.Dense is not one of Keras' own"),
        (layer("Dense", registered_name="mine>Dense"), "custom class"),
    ],
)
def test_keras_configs_that_carry_code_are_refused_in_words(bad: dict[str, Any], words: str) -> None:
    config = {"class_name": "Sequential", "config": {"layers": [layer("Dense"), {"inner": [bad]}]}}
    assert words in refusal(model={"keras_config": config})


def test_a_keras_config_may_be_text_but_must_be_keras_own() -> None:
    assert "not JSON" in refusal(model={"keras_config": "{"})
    assert "class_name" in refusal(model={"keras_config": {"layers": []}})
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    config = {"class_name": "Sequential", "config": {"layers": deep}}
    assert "nested too deeply" in refusal(model={"keras_config": config})


def test_labels_are_few_and_short() -> None:
    assert refusal(labels={"a" * 64: "x"}).startswith("labels")
    assert refusal(labels={str(n): "x" for n in range(17)}).startswith("labels")


def test_a_strategy_is_one_of_seven_kinds_each_with_settings_of_its_own() -> None:
    assert parse_job(train_request()).strategy.kind == "default"
    for kind in ("one_device", "mirrored", "central_storage", "parameter_server", "tpu"):
        assert parse_job(train_request(strategy={"kind": kind})).strategy.kind == kind
    assert "does not match any of the expected tags" in refusal(strategy={"kind": "mirored"})
    assert refusal(strategy={"kind": "mirrored", "workers": 2}).startswith("strategy.mirrored.workers")
    assert "devices" in refusal(strategy={"kind": "mirrored", "devices": ["cuda0"]})
    assert "named twice" in refusal(strategy={"kind": "mirrored", "devices": ["GPU:0", "/device:gpu:0"]})


def callback(name: str, **params: Any) -> dict[str, Any]:
    return {"callbacks": [{"name": name, "params": params}]}


def test_callbacks_have_a_file_each() -> None:
    twice = [
        {"name": "CSVLogger", "params": {"filename": "epochs.csv"}},
        {"name": "CSVLogger", "params": {"filename": "./epochs.csv"}},
    ]
    assert "both write 'epochs.csv'" in refusal(fit={"callbacks": twice})


def test_callbacks_are_refused_for_unknown_or_impossible_arguments() -> None:
    assert refusal(fit=callback("EarlyStopping", pacience=3)).startswith(
        "fit.callbacks.0.EarlyStopping.params.pacience: Extra inputs"
    )
    assert "patience" in refusal(fit=callback("EarlyStopping", patience=-1))
    assert "filepath: Field required" in refusal(fit={"callbacks": ["ModelCheckpoint"]})
    for name in ("../../x.csv", "/x.csv", "checkpoints/x.csv", "a/../../x.csv", ".x"):
        assert "filename" in refusal(fit=callback("CSVLogger", filename=name))
    assert "must end in .keras" in refusal(fit=callback("ModelCheckpoint", filepath="best.h5"))
    assert "no placeholder" in refusal(fit=callback("ModelCheckpoint", filepath="{epoch.real}.keras"))
    batchwise = {"filepath": "b.keras", "save_freq": 5, "save_best_only": True}
    assert "epoch's end only" in refusal(fit=callback("ModelCheckpoint", **batchwise))


def test_rates_by_epoch_and_by_step() -> None:
    table = train_spec(fit=callback("LearningRateScheduler", schedule={"5": 0.001, "0": 0.01})).fit.callbacks[
        0
    ]
    assert table.params.model_dump()["schedule"] == {0: 0.01, 5: 0.001}
    assert 'needs an entry for epoch "0"' in refusal(
        fit=callback("LearningRateScheduler", schedule={"5": 0.1})
    )
    cosine = {"name": "CosineDecay", "params": {"initial_learning_rate": 0.1, "decay_steps": 10}}
    assert train_spec(fit=callback("LearningRateScheduler", schedule=cosine))
    keras_form = {"class_name": "CosineDecay", "config": {**cosine["params"], "name": "CosineDecay"}}
    both = train_spec(fit={"learning_rate": keras_form}).fit
    assert both.learning_rate == train_spec(fit={"learning_rate": cosine}).fit.learning_rate
    no_steps = {"name": "CosineDecay", "params": {"initial_learning_rate": 0.1}}
    assert "decay_steps: Field required" in refusal(fit={"learning_rate": no_steps})
    late = {"name": "PiecewiseConstantDecay", "params": {"boundaries": [5], "values": [0.1, 0.2, 0.3]}}
    assert "one more than boundaries" in refusal(fit={"learning_rate": late})
    assert "schedule by step" in refusal(fit={"learning_rate": cosine, "callbacks": ["ReduceLROnPlateau"]})
    in_optimizer = {"name": "SGD", "params": {"learning_rate": {"name": "Cosine", "params": {}}}}
    assert "optimizer.params.learning_rate" in refusal(fit={"optimizer": in_optimizer})


@pytest.mark.parametrize(
    ("every", "steps", "seconds"),
    [
        ("epoch", None, None),
        (500, 500, None),
        ("30s", None, 30.0),
        ("1.5m", None, 90.0),
        ("2 h", None, 7200.0),
    ],
)
def test_checkpoints_by_epoch_steps_or_time(every: Any, steps: int | None, seconds: float | None) -> None:
    spec = train_spec(checkpoint={"every": every}).checkpoint
    assert (spec.every_steps, spec.every_seconds) == (steps, seconds)
    assert parse_job(train_spec(checkpoint={"every": every}).model_dump(mode="json"))


def test_checkpoints_by_nonsense_are_refused() -> None:
    with pytest.raises(ValidationError, match="such as '30s'"):
        parse_job(train_request(checkpoint={"every": "often"}))
    with pytest.raises(ValidationError):
        parse_job(train_request(checkpoint={"every": "0s"}))
    assert train_spec(checkpoint={"best": "val_accuracy"}).checkpoint.best.monitor == "val_accuracy"
    assert refusal(tensorboard={"profile": [5, 3]}).startswith("tensorboard.profile")


def test_steps_of_several_parameter_server_workers_can_not_be_deterministic() -> None:
    fit = {"epochs": 1, "deterministic": True}
    assert "multi_worker_mirrored" in refusal(fit=fit, strategy={"kind": "parameter_server", "workers": 2})
    assert train_spec(fit=fit, strategy={"kind": "parameter_server", "workers": 1}).fit.deterministic
