"""Jobs that begin with trained weights: of a run, a checkpoint, or a file of the user's own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from services.worker.training import kept
from tests.training.conftest import DIGITS_JOB, Job, Supervisor, changed


def source_of(run_dir: Path, checkpoint: str | None = None) -> dict[str, Any]:
    lineage = {"job_id": "job_source"}
    return {"folder": run_dir / "kept", "root": run_dir, "checkpoint": checkpoint, "lineage": lineage}


def from_job(checkpoint: str | None = None, **options: Any) -> dict[str, Any]:
    return {"from_job": {"job": "job_source", "checkpoint": checkpoint}, **options}


def weights(run_dir: Path) -> dict[str, Any]:
    model = keras.saving.load_model(run_dir / "kept/model.keras", compile=False)
    layers = {layer.name: layer.get_weights() for layer in model.layers}
    return {name: value for name, value in layers.items() if value}


@pytest.fixture(scope="module")
def trained(shared_supervisor: Supervisor, digits: Path) -> Job:
    spec = changed(DIGITS_JOB, model={"builder": "mlp", "params": {"units": [32, 16]}})
    return shared_supervisor.run(spec, data=digits, run="source")


def test_training_goes_on_as_if_it_had_never_ended(
    supervisor: Supervisor, digits: Path, trained: Job
) -> None:
    fit = {"epochs": 1, "learning_rate": 1e-9}
    for number, (model, source) in enumerate(
        [
            (from_job(keep_optimizer=True), source_of(trained.run_dir)),
            (from_job("last", keep_optimizer=True), source_of(trained.run_dir, "last")),
        ]
    ):
        spec = {**changed(DIGITS_JOB, fit=fit), "model": model}
        job = supervisor.run(spec, data=digits, run=f"on{number}", source=source)
        assert job.last["metrics"]["test_accuracy"] == trained.last["metrics"]["test_accuracy"]
        assert job.last["lineage"]["source"] == {"job_id": "job_source"}
        again = keras.saving.load_model(job.run_dir / "kept/model.keras")
        assert int(again.optimizer.iterations) == trained.last["steps"] + job.last["steps"]
        # once in the source, not a second time before it
        scaling = [layer for layer in again.layers if isinstance(layer, keras.layers.Rescaling)]
        assert len(scaling) == 1


def test_frozen_layers_stay_and_a_new_head_learns_other_classes(
    supervisor: Supervisor, digits: Path, tmp_path: Path, trained: Job
) -> None:
    with np.load(digits) as data:
        arrays = {name: (data[name] % 3 if name.startswith("y") else data[name]) for name in data}
    np.savez(tmp_path / "three.npz", **arrays)
    spec = changed(DIGITS_JOB, fit={"epochs": 3}) | {"model": from_job(freeze=["d*"], new_head=True)}
    job = supervisor.run(spec, data=tmp_path / "three.npz", run="tuned", source=source_of(trained.run_dir))
    before, after = weights(trained.run_dir), weights(job.run_dir)
    for name in ("d1", "d2"):
        assert all((a == b).all() for a, b in zip(before[name], after[name], strict=True))
    assert before["probabilities"][0].shape == (16, 10)
    assert after["probabilities"][0].shape == (16, 3)
    assert job.last["classes"] == ["0", "1", "2"]
    assert job.noted()["source"] == {"job_id": "job_source"}
    facts = json.loads((job.run_dir / "kept/model.json").read_text())
    assert facts["outputs"] == 3
    # the next one trains all again, unless it says otherwise
    third = supervisor.run(
        changed(DIGITS_JOB, fit={"epochs": 1}) | {"model": from_job()},
        data=tmp_path / "three.npz", run="third", source=source_of(job.run_dir),
    )  # fmt: skip
    assert np.abs(weights(third.run_dir)["d1"][0] - after["d1"][0]).max() > 0


@pytest.mark.parametrize(
    ("options", "fit", "words"),
    [
        ({"freeze": ["conv*"]}, {}, "no layer is called 'conv*'"),
        ({"freeze": ["*"]}, {}, "no layer is left"),
        ({"new_head": 50}, {}, "at least one must stay"),
        ({"new_head": 4}, {}, "not [batch, units]"),
        ({"keep_optimizer": True}, {"optimizer": "sgd"}, "do not fit SGD"),
    ],
)
def test_what_can_not_be_tuned_is_said(
    supervisor: Supervisor,
    digits: Path,
    trained: Job,
    options: dict[str, Any],
    fit: dict[str, Any],
    words: str,
) -> None:
    spec = changed(DIGITS_JOB, fit=fit) | {"model": from_job(**options)}
    failed = supervisor.fail(spec, data=digits, run="cut", source=source_of(trained.run_dir))
    assert failed["code"] == "model_invalid"
    assert words in failed["message"]


def from_file(path: Path, **options: Any) -> dict[str, Any]:
    return {"from_file": str(path), **options}


def test_files_of_ones_own_give_the_same_model(
    supervisor: Supervisor, digits: Path, tmp_path: Path, trained: Job
) -> None:
    model = keras.saving.load_model(trained.run_dir / "kept/model.keras", compile=False)
    model.save(tmp_path / "own.h5")
    model.save_weights(tmp_path / "own.weights.h5")
    architecture = {"builder": "mlp", "params": {"units": [32, 16]}}
    sources = {
        "keras": from_file(trained.run_dir / "kept/model.keras", keep_optimizer=True),
        # Keras 3 gives an HDF5 model an optimizer that refuses to go on; here it is compiled anew
        "h5": from_file(tmp_path / "own.h5"),
        "weights": from_file(tmp_path / "own.weights.h5", architecture=architecture),
        "saved_model": from_file(trained.run_dir / "export", architecture=architecture),
    }
    for name, spec in sources.items():
        job = supervisor.run(
            changed(DIGITS_JOB, fit={"epochs": 1, "learning_rate": 1e-9}) | {"model": spec},
            data=digits, run=name, model_file=Path(spec["from_file"]),
        )  # fmt: skip
        golden = kept.read_golden(job.run_dir / "kept/golden.npz").answers
        expected = kept.read_golden(trained.run_dir / "kept/golden.npz").answers
        np.testing.assert_allclose(golden, expected, atol=1e-4, err_msg=name)


def test_moving_means_of_a_saved_model_are_taken_along(supervisor: Supervisor, digits: Path) -> None:
    layers = keras.layers
    config = json.loads(
        keras.Sequential(
            [
                keras.Input((8, 8, 1)), layers.Flatten(), layers.BatchNormalization(), layers.Dropout(0.2),
                layers.Dense(8, activation="relu"), layers.BatchNormalization(),
                layers.Dense(10, activation="softmax"),
            ]
        ).to_json()
    )  # fmt: skip
    spec = changed(DIGITS_JOB) | {"model": {"keras_config": config}}
    trained = supervisor.run(spec, data=digits, run="source")
    export = trained.run_dir / "export"
    tuned = changed(DIGITS_JOB, fit={"epochs": 1, "optimizer": "sgd", "learning_rate": 1e-12})
    tuned["model"] = from_file(export, architecture={"keras_config": config}, freeze=["batch_normalization*"])
    job = supervisor.run(tuned, data=digits, run="tuned", model_file=export)
    np.testing.assert_allclose(
        kept.read_golden(job.run_dir / "kept/golden.npz").answers,
        kept.read_golden(trained.run_dir / "kept/golden.npz").answers,
        atol=1e-5,
    )
    wrong = changed(DIGITS_JOB) | {"model": from_file(export, architecture={"builder": "mlp"})}
    failed = supervisor.fail(wrong, data=digits, run="wrong", model_file=export)
    assert failed["code"] == "source_invalid"
    assert "do not fit the architecture" in failed["message"]


def test_files_that_carry_code_or_are_damaged_are_refused(
    supervisor: Supervisor, digits: Path, tmp_path: Path
) -> None:
    lambdas = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Lambda(lambda x: x),
                                keras.layers.Dense(10)])  # fmt: skip
    for name in ("code.keras", "code.h5", "damaged.keras"):
        path = tmp_path / name
        path.write_bytes(b"nothing") if name.startswith("damaged") else lambdas.save(path)
        spec = changed(DIGITS_JOB) | {"model": from_file(path)}
        failed = supervisor.fail(spec, data=digits, run=f"run-{name}", model_file=path)
        assert failed["code"] == "source_invalid"
    tf.saved_model.save(tf.Module(), str(tmp_path / "empty"))
    spec = changed(DIGITS_JOB) | {"model": from_file(tmp_path / "empty", architecture={"builder": "mlp"})}
    assert (
        supervisor.fail(spec, data=digits, run="e", model_file=tmp_path / "empty")["code"] == "source_invalid"
    )
