"""Whole jobs in child processes: what goes in, what is said, what lies on disk afterwards."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from services.worker.preloader import Preloader
from tests.training.conftest import DIGITS_JOB, SCALARS_ALONE, Job, Supervisor, changed


@pytest.fixture(scope="module")
def pictures(shared_supervisor: Supervisor, digits: Path) -> Job:
    """A network for images, with all that TensorBoard may show of it."""
    spec = changed(DIGITS_JOB, model={"builder": "lenet5", "params": {}})
    return shared_supervisor.run(spec | {"tensorboard": {"update_freq": "batch"}}, data=digits)


def test_images_to_a_served_model(pictures: Job, digits: Path) -> None:
    job = pictures
    stages = [event["stage"] for event in job.of("stage")]
    assert stages == ["preparing_data", "building", "training", "evaluating", "exporting"]
    epochs = job.of("epoch")
    assert [event["epoch"] for event in epochs] == [1, 2]
    assert epochs[-1]["step"] == 2 * 24  # 1,500 rows in batches of 64, the short last one kept
    assert set(epochs[0]["metrics"]) == {"loss", "accuracy", "val_loss", "val_accuracy"}
    assert epochs[-1]["metrics"]["loss"] < epochs[0]["metrics"]["loss"]
    finished = job.last
    assert finished["event"] == "finished"
    assert finished["metrics"]["test_accuracy"] == pytest.approx(epochs[-1]["metrics"]["val_accuracy"])
    assert finished["classes"] == [str(index) for index in range(10)]
    facts = job.noted()
    assert facts["data"]["rows"] == {"train": 1500, "validation": 297, "test": 297}
    assert facts["model"]["parameters"] == 61706
    assert facts["timings"]["first_step"] > 0

    loaded = tf.saved_model.load(str(job.run_dir / finished["export_dir"]))
    x = np.load(digits)["x_test"][:3]
    answer = loaded.signatures["serving_default"](image=tf.constant(x, tf.float32))["probabilities"]
    files = tf.stack([tf.io.encode_png(row) for row in x])
    from_files = loaded.signatures["image_bytes"](image_bytes=files)["probabilities"]
    np.testing.assert_allclose(answer.numpy().sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(answer, from_files, atol=1e-5)
    manifest = json.loads((job.run_dir / "export/assets.extra/modelyard.json").read_text())
    assert manifest["input"] == {
        "kind": "image", "shape": [8, 8, 1], "dtype": "uint8", "columns": None, "largest_value": 255.0,
    }  # fmt: skip
    assert manifest["signatures"] == finished["signatures"]


def test_text_labels_in_a_csv_file(supervisor: Supervisor, iris: Path) -> None:
    spec = {
        "model": {"builder": "mlp", "params": {"units": [16], "dropout": 0.1}},
        "dataset": {"csv": "ds_iris", "label": "species"},
        "tensorboard": SCALARS_ALONE,
        "fit": {"epochs": 30, "batch_size": 16, "learning_rate": 0.02, "metrics": ["accuracy", "AUC"]},
    }
    job = supervisor.run(spec, data=iris)
    assert job.last["classes"] == ["setosa", "versicolor", "virginica"]
    assert job.last["metrics"]["test_accuracy"] > 0.8
    assert job.last["metrics"]["test_auc"] > 0.9
    assert job.last["signatures"]["serving_default"]["inputs"] == {
        "features": {"dtype": "float32", "shape": [None, 4]}
    }
    assert job.noted()["model"]["loss"] == "CategoricalCrossentropy"


def test_numbers_to_predict(supervisor: Supervisor, tmp_path: Path) -> None:
    x = np.random.default_rng(1).normal(size=(400, 3))
    np.savez(tmp_path / "line.npz", x=x, y=x @ [1.0, -2.0, 0.5] + 3)
    spec = {
        "model": {"builder": "mlp", "params": {"units": [16]}},
        "dataset": {"npz": "ds_line", "validation_split": 0.25},
        "tensorboard": SCALARS_ALONE,
        "fit": {"epochs": 40, "batch_size": 20, "learning_rate": 0.01},
    }
    job = supervisor.run(spec, data=tmp_path / "line.npz")
    assert job.last["classes"] is None
    assert job.last["metrics"] == {}
    assert job.of("epoch")[-1]["metrics"]["val_loss"] < 0.2
    assert list(job.last["signatures"]["serving_default"]["outputs"]) == ["value"]


def test_event_files_hold_scalars_histograms_images_and_both_graphs(pictures: Job) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train = EventAccumulator(str(pictures.run_dir / "train"), size_guidance={"tensors": 0}).Reload()
    tags = train.Tags()
    assert tags["graph"], "the op-level graph"
    names = set(tags["tensors"])
    assert {"epoch_loss", "epoch_accuracy", "epoch_learning_rate", "batch_loss", "training_images"} <= names
    assert {"keras", "job", "c3/kernel/histogram", "c3/kernel/image", "f5/kernel/image"} <= names
    assert [event.step for event in train.Tensors("batch_loss")] == list(range(1, 49))
    validation = EventAccumulator(str(pictures.run_dir / "validation")).Reload()
    assert {"epoch_loss", "evaluation_accuracy_vs_iterations"} <= set(validation.Tags()["tensors"])


def test_points_of_a_long_epoch_are_thinned_whatever_the_rate_does(
    supervisor: Supervisor, digits: Path
) -> None:
    by_step = {"name": "PiecewiseConstantDecay", "params": {"boundaries": [230], "values": [0.01, 0.002]}}
    fit = {"epochs": 1, "batch_size": 4, "learning_rate": by_step}
    job = supervisor.run(changed(DIGITS_JOB, fit=fit), data=digits)
    assert job.last["metrics"]["test_accuracy"] > 0.3
    points = job.of("metrics")
    assert 90 <= len(points) <= 100
    assert all(event["step"] % 4 == 0 and "batch_loss" in event["values"] for event in points)
    assert job.of("progress")[-1]["step"] == 375


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"fit": {"learning_rate": 100.0, "optimizer": "sgd", "loss": "mse"}}, "nan_loss", "step"),
        ({"fit": {"batch_size": 2000}}, "data_invalid", "fit.batch_size is 2000"),
        ({"fit": {"optimizer": {"name": "SGD", "params": {"momentun": 1}}}}, "model_invalid", "momentun"),
        ({"fit": {"metrics": [{"name": "AUC", "params": {"curve": "x"}}]}}, "model_invalid", "fit.metrics.0"),
        (
            {"fit": {"callbacks": [{"name": "EarlyStopping", "params": {"monitor": "val_acc"}}]}},
            "model_invalid",
            "fit.callbacks.0.params.monitor: there will be no 'val_acc'; known here: accuracy, loss, val_accuracy",
        ),
        (
            {
                "fit": {
                    "callbacks": [{"name": "ModelCheckpoint", "params": {"filepath": "{val_auc:.2f}.keras"}}]
                }
            },
            "model_invalid",
            "fit.callbacks.0.params.filepath: there will be no 'val_auc'",
        ),
        ({"fit": {"callbacks": ["SwapEMAWeights"]}}, "model_invalid", "averaged weights"),
        ({"checkpoint": {"best": "val_f1"}}, "model_invalid", "checkpoint.best.monitor"),
        ({"dataset": {"x": "x_tain"}}, "data_invalid", "x_tain"),
    ],
)
def test_what_can_not_work_fails_in_words(
    supervisor: Supervisor, digits: Path, tmp_path: Path, change: dict[str, Any], code: str, words: str
) -> None:
    data = digits
    if code == "nan_loss":
        data = tmp_path / "numbers.npz"
        x = np.random.default_rng(0).normal(size=(640, 3)) * 100
        np.savez(data, x=x, y=x.sum(axis=1) * 1e6)
    failed = supervisor.fail(changed(DIGITS_JOB, **change), data=data)
    assert failed["code"] == code
    assert words in failed["message"]


def test_losses_that_are_not_finite_are_trained_on_when_asked(supervisor: Supervisor, tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(640, 3)) * 100
    np.savez(tmp_path / "n.npz", x=x, y=x.sum(axis=1) * 1e6)
    fit = {"learning_rate": 100.0, "optimizer": "sgd", "on_nan": "continue", "loss": "mse"}
    job = supervisor.run(changed(DIGITS_JOB, fit=fit), data=tmp_path / "n.npz")
    assert len(job.of("epoch")) == 2


@pytest.mark.parametrize("raise_error", [False, True])
def test_terminate_on_nan_ends_training_at_the_very_step(
    supervisor: Supervisor, tmp_path: Path, raise_error: bool
) -> None:
    x = np.random.default_rng(0).normal(size=(640, 3))
    x[100] = 1e30  # in the second batch; its square is no float32
    np.savez(tmp_path / "n.npz", x=x, y=np.zeros(640))
    spec = changed(
        DIGITS_JOB,
        model={"builder": "mlp", "params": {"units": "4"}, "preprocessing": "none"},
        dataset={"shuffle": False, "validation_split": 0.0},
        fit={
            "loss": "mse",
            "steps_per_execution": 8,
            "on_nan": "continue",
            "callbacks": [{"name": "TerminateOnNaN", "params": {"raise_error": raise_error}}],
        },
    )
    job = supervisor.start(spec, data=tmp_path / "n.npz")
    job.finish()
    if raise_error:
        assert job.last["code"] == "nan_loss"
        assert "step 2 of epoch 1" in job.last["message"]
    else:
        warned = [event for event in job.of("warning") if event["code"] == "nan_loss"]
        assert "step 2 of epoch 1" in warned[0]["message"]
        assert [event["step"] for event in job.of("epoch")] == [2], job.tail()


def test_a_model_is_saved_at_the_exact_steps_that_its_callback_names(
    supervisor: Supervisor, digits: Path
) -> None:
    params = {"filepath": "w/{epoch}-{batch}.weights.h5", "save_weights_only": True, "save_freq": 5}
    fit = {"epochs": 2, "steps_per_epoch": 12, "callbacks": [{"name": "ModelCheckpoint", "params": params}]}
    job = supervisor.run(changed(DIGITS_JOB, fit=fit), data=digits)
    saved = {path.name.removesuffix(".weights.h5") for path in (job.run_dir / "w").iterdir()}
    assert saved == {"1-5", "1-10", "2-3", "2-8"}
    assert len(job.noted()["callback_files"]) == 4


def test_rates_change_by_epoch_as_the_schedule_says(supervisor: Supervisor, digits: Path) -> None:
    params = {"schedule": {"0": 0.01, "2": 0.001}, "warmup_epochs": 1}
    fit = {"epochs": 4, "callbacks": [{"name": "LearningRateScheduler", "params": params}]}
    job = supervisor.run(changed(DIGITS_JOB, fit=fit), data=digits)
    rates = [event["metrics"]["learning_rate"] for event in job.of("epoch")]
    assert rates == pytest.approx([0.005, 0.01, 0.01, 0.001])


def test_a_full_disk_is_told_as_such(supervisor: Supervisor, digits: Path) -> None:
    job = supervisor.start(changed(DIGITS_JOB, fit={"epochs": 500}), data=digits)
    job.wait_for(lambda event: event["event"] == "checkpoint")
    for epoch in range(500):
        # every write to this device fails with ENOSPC, as on a full disk
        with contextlib.suppress(FileExistsError):
            (job.run_dir / f"checkpoints/.{epoch:06d}-00000000.npz.tmp").symlink_to("/dev/full")
    assert job.finish() == 1
    assert job.last["code"] == "disk_full"
    assert "retry" in job.last["hint"]


def test_callbacks_of_keras_by_name_keep_their_files_in_the_run(supervisor: Supervisor, digits: Path) -> None:
    callbacks = [
        {"name": "ModelCheckpoint", "params": {"filepath": "best.keras", "save_best_only": True}},
        {
            "name": "ModelCheckpoint",
            "params": {"filepath": "w/{epoch:02d}.weights.h5", "save_weights_only": True},
        },
        {"name": "CSVLogger", "params": {"filename": "epochs.csv"}},
        {"name": "EarlyStopping", "params": {"monitor": "loss", "min_delta": 100, "patience": 2}},
        "TerminateOnNaN",
    ]
    job = supervisor.run(changed(DIGITS_JOB, fit={"callbacks": callbacks, "epochs": 20}), data=digits)
    assert [event["epoch"] for event in job.of("epoch")] == [1, 2, 3], "stopped early"
    assert job.last["epochs"] == 3
    assert (job.run_dir / "best.keras").is_file()
    assert len(list((job.run_dir / "w").iterdir())) == 3
    assert len((job.run_dir / "epochs.csv").read_text().splitlines()) == 4


def test_averaged_weights_swapped_in_at_each_epochs_end(supervisor: Supervisor, digits: Path) -> None:
    optimizer = {"name": "Adam", "params": {"use_ema": True, "ema_momentum": 0.9}}
    callbacks = [{"name": "SwapEMAWeights", "params": {"swap_on_epoch": True}}]
    job = supervisor.run(
        changed(DIGITS_JOB, fit={"optimizer": optimizer, "callbacks": callbacks}), data=digits
    )
    assert job.last["metrics"]["test_accuracy"] > 0.3


def test_two_jobs_may_use_the_same_cached_data_at_once(supervisor: Supervisor, digits: Path) -> None:
    jobs = [supervisor.start(DIGITS_JOB, data=digits, run=name) for name in ("one", "two")]
    assert [job.finish() for job in jobs] == [0, 0]
    assert jobs[0].last["metrics"] == jobs[1].last["metrics"]


def test_steps_per_epoch_and_a_fixed_chunk(supervisor: Supervisor, digits: Path) -> None:
    fit = {"steps_per_epoch": 7, "steps_per_execution": 3, "epochs": 3}
    job = supervisor.run(changed(DIGITS_JOB, fit=fit), data=digits)
    assert [event["step"] for event in job.of("epoch")] == [7, 14, 21]


def test_a_fresh_start_without_a_preloader_keeps_the_log_readable(tmp_path: Path, digits: Path) -> None:
    job = Supervisor(Preloader(warm=False), tmp_path).run(changed(DIGITS_JOB, fit={"epochs": 1}), data=digits)
    log = (job.run_dir / "job.log").read_text()
    assert log.startswith("job_id=")
    assert log.splitlines()[1].startswith("epoch 1/1: loss ")
    assert "oneDNN" not in log
    job.trainer.close()


def test_many_static_steps_on_large_data_survive_the_graph_optimizer(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    """TensorFlow's memory pass turns sums into temporary variables that collide in loops (see ``runtime``)."""
    x = np.zeros((60_000, 28, 28, 1), np.uint8)  # enough for the pass to believe that memory is short
    np.savez(tmp_path / "large.npz", x=x, y=np.arange(len(x)) % 10)
    spec = {
        "model": {"builder": "lenet5"},
        "dataset": {"npz": "ds_large"},
        "fit": {"epochs": 1, "steps_per_epoch": 20},
        "tensorboard": SCALARS_ALONE,
    }
    job = supervisor.run(spec, data=tmp_path / "large.npz")
    assert job.last["steps"] == 20
