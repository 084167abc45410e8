"""Export jobs: every format is written, loaded back by a reader of its own, and answers as the trained model did."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import tensorflow as tf

from services.worker.training import kept, litert
from tests.training.conftest import DIGITS_JOB, SCALARS_ALONE, Job, Supervisor, changed

EVERY = ["saved_model", "keras", "h5", "weights", "tflite", "onnx"]
QUANTIZED = [{"format": "tflite", "quantization": kind} for kind in ("float16", "dynamic_range", "int8")]


def export(supervisor: Supervisor, trained: Path, *, fails: bool = False, **changes: Any) -> Any:
    """Run an export of the run ``trained``; the job, or its ``failed`` event."""
    checkpoint = changes.pop("checkpoint", None)
    spec = {"kind": "export", "from": {"job": "job_trained", "checkpoint": checkpoint}, **changes}
    source = {
        "folder": trained / "kept",
        "root": trained,
        "checkpoint": checkpoint,
        "lineage": {"job_id": "j"},
    }
    run = supervisor.fail if fails else supervisor.run
    return run(spec, run=f"export{len(supervisor.jobs)}", source=source)


def train(supervisor: Supervisor, data: Path, **changes: Any) -> Job:
    return supervisor.run(changed(DIGITS_JOB, **changes), data=data, run="trained")


def test_a_classifier_of_images_in_every_format(supervisor: Supervisor, digits: Path) -> None:
    augment = [{"name": "RandomRotation", "params": {"factor": 0.05}}]  # of training alone
    dataset = {**DIGITS_JOB["dataset"], "augment": augment}
    trained = train(supervisor, digits, model={"builder": "lenet5", "params": {}}, dataset=dataset)
    job = export(supervisor, trained.run_dir, formats=[*EVERY, *QUANTIZED])
    folder = job.run_dir / "export"
    golden = kept.read_golden(trained.run_dir / "kept/golden.npz")
    rows, floats, answers = golden.rows, golden.rows.astype(np.float32), golden.answers
    assert answers is not None
    proofs = job.noted()["export"]
    assert list(proofs) == [*EVERY, "tflite_float16", "tflite_dynamic_range", "tflite_int8"]
    assert all(proof["difference"] < 1e-5 for name, proof in proofs.items() if name in EVERY)
    assert proofs["tflite_int8"]["agreement"] > 0.95
    assert abs(proofs["tflite_int8"]["accuracy"] - proofs["tflite_int8"]["original_accuracy"]) < 0.05

    loaded = tf.saved_model.load(str(folder / "saved_model"))
    signatures = loaded.signatures
    assert set(signatures) == {"serving_default", "pixels", "image_bytes", "class_names", "classify"}
    from_pixels = signatures["pixels"](image=tf.constant(rows))["probabilities"]
    np.testing.assert_allclose(from_pixels, answers, atol=1e-5)
    named = signatures["class_names"](image=tf.constant(floats))
    assert [name.decode() for name in named["class"].numpy()] == [str(n) for n in answers.argmax(axis=1)]
    np.testing.assert_allclose(named["probability"], answers.max(axis=1), atol=1e-5)
    file = tf.io.encode_png(rows[0]).numpy()
    feature = {"image/encoded": tf.train.Feature(bytes_list=tf.train.BytesList(value=[file]))}
    example = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
    classified = signatures["classify"](inputs=tf.constant([example]))
    np.testing.assert_allclose(classified["scores"][0], answers[0], atol=1e-5)
    from tensorflow.core.protobuf import saved_model_pb2

    graph = saved_model_pb2.SavedModel.FromString((folder / "saved_model/saved_model.pb").read_bytes())
    methods = {name: one.method_name for name, one in graph.meta_graphs[0].signature_def.items()}
    assert methods["classify"] == "tensorflow/serving/classify"
    assert methods["pixels"] == "tensorflow/serving/predict"

    model = keras.saving.load_model(folder / "model.keras", safe_mode=True)
    assert int(model.optimizer.iterations) == trained.last["steps"]
    model.fit(floats, golden.targets, verbose=0)  # goes on training

    h5 = keras.saving.load_model(folder / "model.h5", compile=False, safe_mode=True)
    np.testing.assert_allclose(h5.predict(floats, verbose=0), answers, atol=1e-5)
    h5.compile("adam", "sparse_categorical_crossentropy")
    h5.fit(floats, golden.targets, verbose=0)

    fresh = keras.models.model_from_json((folder / "architecture.json").read_text())
    fresh.load_weights(folder / "model.weights.h5")
    np.testing.assert_allclose(fresh.predict(floats, verbose=0), answers, atol=1e-5)

    sizes = {path.name: path.stat().st_size for path in folder.glob("*.tflite")}
    assert sizes["model_int8.tflite"] < 0.5 * sizes["model.tflite"]
    content = (folder / "model.tflite").read_bytes()
    np.testing.assert_allclose(litert.Runner(content, "pixels")(rows), answers, atol=1e-5)

    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    (onnx_answers,) = session.run(None, {"image": floats})
    np.testing.assert_allclose(onnx_answers, answers, atol=1e-5)
    notes = json.loads((folder / "export.json").read_text())
    assert notes["formats"]["onnx"]["files"] == ["model.onnx"]


def test_logits_of_a_table_become_probabilities_everywhere_and_examples_go_by_column(
    supervisor: Supervisor, iris: Path
) -> None:
    config = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.BatchNormalization(),
            keras.layers.Dropout(0.1),
            keras.layers.Dense(3),
        ]
    ).to_json()
    spec = {
        "model": {"keras_config": json.loads(config)},
        "dataset": {"csv": "ds_iris", "label": "species"},
        "fit": {"epochs": 4, "batch_size": 16},
        "tensorboard": SCALARS_ALONE,
    }
    trained = supervisor.run(spec, data=iris, run="trained")
    job = export(supervisor, trained.run_dir, formats=["saved_model", "tflite", "onnx"])
    folder = job.run_dir / "export"
    golden = kept.read_golden(trained.run_dir / "kept/golden.npz")
    assert golden.answers is not None
    np.testing.assert_allclose(golden.answers.sum(axis=1), 1, atol=1e-5)
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    (answers,) = session.run(None, {"features": golden.rows.astype(np.float32)})
    np.testing.assert_allclose(answers, golden.answers, atol=1e-5)
    loaded = tf.saved_model.load(str(folder / "saved_model"))
    columns = ["sepal_length", "sepal_width", "petal_length", "petal_width"]
    feature = {
        name: tf.train.Feature(float_list=tf.train.FloatList(value=[value]))
        for name, value in zip(columns, golden.rows[0], strict=True)
    }
    example = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()
    answer = loaded.signatures["classify"](inputs=tf.constant([example]))
    assert [name.decode() for name in answer["classes"].numpy()[0]] == ["setosa", "versicolor", "virginica"]
    np.testing.assert_allclose(answer["scores"][0], golden.answers[0], atol=1e-5)


def test_a_checkpoint_and_what_can_not_be_exported(supervisor: Supervisor, digits: Path) -> None:
    fit = {"epochs": 2, "callbacks": [{"name": "ModelCheckpoint", "params": {"filepath": "e{epoch}.weights.h5",
                                                                              "save_weights_only": True}}]}  # fmt: skip
    trained = train(supervisor, digits, fit=fit)
    last = export(supervisor, trained.run_dir, checkpoint="last", formats=["keras", "weights"])
    first = export(supervisor, trained.run_dir, checkpoint="e1.weights.h5", formats=["keras"])
    golden = kept.read_golden(trained.run_dir / "kept/golden.npz")
    answers = [
        keras.saving.load_model(job.run_dir / "export/model.keras").predict(golden.rows, verbose=0)
        for job in (last, first)
    ]
    assert golden.answers is not None
    np.testing.assert_allclose(answers[0], golden.answers, atol=1e-5)
    assert np.abs(answers[1] - golden.answers).max() > 1e-3, "an earlier state of the same model"

    failed = export(supervisor, trained.run_dir, fails=True, formats=["tflite"], signatures=["image_bytes"])
    assert failed["code"] == "format_not_possible"
    assert "PNG" in failed["hint"]
    failed = export(supervisor, trained.run_dir, fails=True, checkpoint="e7.weights.h5")
    assert failed["code"] == "source_invalid"
    (trained.run_dir / "outside").symlink_to("/etc/passwd")
    failed = export(supervisor, trained.run_dir, fails=True, checkpoint="outside")
    assert failed["code"] == "source_invalid"
    (trained.run_dir / "kept/model.keras").write_bytes(b"no zip")
    failed = export(supervisor, trained.run_dir, fails=True)
    assert failed["code"] == "source_invalid"


def test_numbers_are_served_by_regress_and_a_strict_limit_refuses_a_coarse_quantization(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    x = np.random.default_rng(1).normal(size=(400, 3))
    np.savez(tmp_path / "line.npz", x=x, y=x @ [1.0, -2.0, 0.5] + 3)
    spec = {"model": {"builder": "mlp", "params": {"units": [16]}}, "dataset": {"npz": "ds_line"},
            "fit": {"epochs": 3, "batch_size": 20}, "tensorboard": SCALARS_ALONE}  # fmt: skip
    trained = supervisor.run(spec, data=tmp_path / "line.npz", run="trained")
    job = export(
        supervisor,
        trained.run_dir,
        formats=["saved_model", "onnx"],
        signatures=["serving_default", "regress"],
        publish={"model": "m"},
    )
    assert job.last["export_dir"] == "export/saved_model"
    assert job.last["signatures"]["regress"]["outputs"] == {"outputs": {"dtype": "float32", "shape": [None]}}
    beside = job.run_dir / "export/saved_model/assets.extra/modelyard"
    assert {path.name for path in beside.iterdir()} >= {
        "model.keras",
        "golden.npz",
        "litert.json",
        "model.json",
    }
    assert job.last["lineage"]["source"] == {"job_id": "j"}
    coarse = {"format": "tflite", "quantization": "int8", "max_difference": 1e-9}
    failed = export(supervisor, trained.run_dir, fails=True, formats=[coarse])
    assert failed["code"] == "export_mismatch"
    assert "tflite_int8" in failed["message"]


def test_a_table_with_text_is_exported_where_text_can_be_looked_up(
    supervisor: Supervisor, tmp_path: Path
) -> None:
    random = np.random.default_rng(3)
    colors = random.choice(["red", "green", "blue"], 240)
    sizes = random.normal(size=240)
    lines = [
        f"{c},{s:.3f},{'yes' if (c == 'red') ^ (s > 0) else 'no'}" for c, s in zip(colors, sizes, strict=True)
    ]
    path = tmp_path / "table.csv"
    path.write_text("color,size,buys\n" + "\n".join(lines) + "\n")
    spec = {"model": {"builder": "mlp", "params": {"units": [8]}}, "dataset": {"csv": "ds_t", "label": "buys"},
            "fit": {"epochs": 2, "batch_size": 16}, "tensorboard": SCALARS_ALONE}  # fmt: skip
    trained = supervisor.run(spec, data=path, run="trained")
    job = export(
        supervisor, trained.run_dir, formats=["saved_model", "keras", "onnx"], publish={"model": "m"}
    )
    assert not job.of("warning")
    folder = job.run_dir / "export/saved_model"
    signatures = tf.saved_model.load(str(folder)).signatures
    raw = {"color": tf.constant(["red", "mauve"]), "size": tf.constant([0.5, -1.0])}
    named = signatures["class_names"](**raw)
    chosen = signatures["serving_default"](**raw)["probabilities"].numpy().argmax(axis=1)
    assert [name.decode() for name in named["class"].numpy()] == [["no", "yes"][index] for index in chosen]
    failed = export(supervisor, trained.run_dir, fails=True, formats=["tflite"])
    assert failed["code"] == "format_not_possible"
    assert "lookup of text" in failed["message"]
    failed = export(supervisor, trained.run_dir, fails=True, formats=["h5"])
    assert failed["code"] == "format_not_possible"
    assert "GetItem" in failed["message"]
