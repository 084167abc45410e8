"""What a job may ask for, and how a refusal reads."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from shared.specs import MlpParams, parse_job
from tests.builders import train_request


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
