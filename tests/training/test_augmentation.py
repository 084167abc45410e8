"""Augmentation: at work in training only, and resumed exactly; class weights reach the loss."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tensorflow as tf

from tests.training.conftest import DIGITS_JOB, Supervisor, changed

AUGMENT = [
    {"name": "RandomTranslation", "params": {"height_factor": 0.1, "width_factor": 0.1}},
    {"name": "RandomContrast", "params": {"factor": 0.2}},
    {"name": "GaussianNoise", "params": {"stddev": 0.05}},
]
JOB = changed(
    DIGITS_JOB,
    dataset={"augment": AUGMENT},
    fit={"epochs": 3, "batch_size": 32, "deterministic": True},
    checkpoint={"every": 10},
)


def test_augmented_training_is_resumed_exactly_and_the_export_draws_nothing(
    supervisor: Supervisor, digits: Path
) -> None:
    whole = supervisor.run(JOB, data=digits, run="whole")
    supervisor.broken_off(JOB, data=digits, run="broken", at=60)
    resumed = supervisor.run(JOB, data=digits, run="broken")
    assert resumed.noted()["resumed_from"]["step"] > 0
    assert resumed.last["metrics"] == whole.last["metrics"]
    loaded = tf.saved_model.load(str(whole.run_dir / "export")).signatures["serving_default"]
    ops = {node.op for node in loaded.graph.as_graph_def().node}
    ops |= {
        node.op for function in loaded.graph.as_graph_def().library.function for node in function.node_def
    }
    assert not {op for op in ops if "Random" in op}, ops
    with np.load(digits) as arrays:
        rows = tf.constant(arrays["x_test"][:5], tf.float32)
    np.testing.assert_array_equal(*(loaded(image=rows)["probabilities"].numpy() for _ in range(2)))

    plain = supervisor.run(changed(JOB, dataset={"augment": []}), data=digits, run="plain")
    assert plain.last["metrics"] != whole.last["metrics"], "augmentation changes what is learned"


def test_augmentation_that_does_not_suit_is_refused_with_its_field(
    supervisor: Supervisor, digits: Path, iris: Path
) -> None:
    wrong = changed(DIGITS_JOB, dataset={"augment": [{"name": "RandomFlip", "params": {"mode": "sideways"}}]})
    failed = supervisor.fail(wrong, data=digits)
    assert (failed["code"], "dataset.augment.0.params" in failed["message"]) == ("model_invalid", True)
    table = {"model": {"builder": "mlp"}, "dataset": {"csv": "x", "label": "species", "augment": ["RandomFlip"]},
             "fit": {"batch_size": 16}}  # fmt: skip
    failed = supervisor.fail(table, data=iris, run="iris")
    assert "RandomFlip is for images" in failed["message"]


def test_a_class_that_weighs_nothing_is_not_learned(supervisor: Supervisor, digits: Path) -> None:
    job = changed(DIGITS_JOB, fit={"class_weight": {"3": 0, "7": 0}, "epochs": 4, "batch_size": 16})
    run = supervisor.run(job, data=digits)
    loaded = tf.saved_model.load(str(run.run_dir / "export")).signatures["serving_default"]
    with np.load(digits) as arrays:
        x, y = arrays["x_test"], arrays["y_test"]
    found = np.argmax(loaded(image=tf.constant(x, tf.float32))["probabilities"], axis=1)
    assert not set(found[(y == 3) | (y == 7)]) & {3, 7}
    others = (y != 3) & (y != 7)
    assert np.mean(found[others] == y[others]) > 0.7
