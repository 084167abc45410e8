"""What a train job keeps and what lies beside a version that is to be published."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from services.worker.training import kept, litert
from tests.training.conftest import DIGITS_JOB, Supervisor, changed

BESIDE = Path("assets.extra/modelyard")


def test_a_published_model_carries_all_that_a_server_and_a_later_training_need(
    supervisor: Supervisor, digits: Path
) -> None:
    spec = changed(DIGITS_JOB, model={"builder": "lenet5", "params": {}}) | {"publish": {"model": "digits"}}
    job = supervisor.run(spec, data=digits)
    assert not job.of("warning")
    export = job.run_dir / job.last["export_dir"]

    golden = kept.read_golden(export / BESIDE / "golden.npz")
    notes = json.loads((export / BESIDE / "golden.json").read_text())
    loaded = tf.saved_model.load(str(export))
    signature = loaded.signatures[notes["signature"]]
    answer = signature(**{notes["input"]: tf.constant(golden.rows, tf.float32)})[notes["output"]]
    assert golden.answers is not None
    np.testing.assert_allclose(answer, golden.answers, atol=notes["tolerance"])
    assert (golden.rows == np.load(digits)["x_test"][: len(golden.rows)]).all()

    notes = json.loads((export / BESIDE / "litert.json").read_text())
    compared = ["saved_model.pb", *(f"variables/{file.name}" for file in (export / "variables").iterdir())]
    assert notes["saved_model"] == {
        name: sha256((export / name).read_bytes()).hexdigest() for name in compared
    }
    described = notes["signatures"]
    assert set(described) == {"serving_default"}
    content = (export / BESIDE / described["serving_default"]["file"]).read_bytes()
    runner = litert.Runner(content, "serving_default")
    np.testing.assert_allclose(runner(golden.rows), golden.answers, atol=1e-5)
    assert (runner.input, runner.output) == ("image", "probabilities")

    prediction_log = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    records = list(tf.data.TFRecordDataset(str(export / "assets.extra/tf_serving_warmup_requests")))
    requests = [
        prediction_log.PredictionLog.FromString(record.numpy()).predict_log.request for record in records
    ]
    shapes = [tf.make_ndarray(request.inputs["image"]).shape for request in requests]
    assert shapes == [(1, 8, 8, 1), (8, 8, 8, 1)]

    model = tf.keras.models.load_model(export / BESIDE / "model.keras", safe_mode=True)
    np.testing.assert_allclose(model.predict(golden.rows, verbose=0), golden.answers, atol=1e-5)
    assert int(model.optimizer.iterations) == job.last["steps"]
    facts = json.loads((export / BESIDE / "model.json").read_text())
    assert facts["metrics"] == job.last["metrics"]


def test_mixed_precision_is_converted_by_a_float32_twin(supervisor: Supervisor, digits: Path) -> None:
    precision = {"devices": {"mixed_precision": "mixed_bfloat16"}, "publish": {"model": "digits"}}
    trained = supervisor.run(changed(DIGITS_JOB, fit={"epochs": 1}) | precision, data=digits, run="trained")
    # of the processor, where it has no instructions for them
    assert {one["code"] for one in trained.of("warning")} <= {"bfloat16_on_cpu"}
    described = json.loads((trained.run_dir / "export" / BESIDE / "litert.json").read_text())
    assert described["largest_difference"] < 0.01
    source = {"folder": trained.run_dir / "kept", "root": trained.run_dir}
    spec = {"kind": "export", "from": {"job": "job_trained"}, "formats": ["keras", "tflite", "onnx"]}
    job = supervisor.run(spec, run="export", source=source)
    assert all(proof["difference"] < 0.01 for proof in job.noted()["export"].values())
