"""What lies beside a published SavedModel in ``assets.extra/``, to make it fast to serve and provable.

    tf_serving_warmup_requests     TensorFlow Serving's own: recorded requests that a server runs before it is ready
    modelyard/golden.npz           ``rows`` as the data have them, and the training program's own float32 ``answers``
    modelyard/golden.json          {"signature", "input", "output", "tolerance"}, for tables "inputs", their raw columns
    modelyard/litert/model.tflite  the numeric signatures in LiteRT
    modelyard/litert.json          {"signatures": {name: {"file", "sha256", "inputs", "outputs"}},
                                   "largest_difference", "saved_model": {file: its SHA-256}}
    modelyard/model.keras, ...     what a run keeps (``kept``), so that the version can be trained on

None of it is needed to serve the version: what can't be written is a warning, never the job's end.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from services.worker.training import litert
from services.worker.training.export import difference, export, in_full_precision, tolerance_of
from services.worker.training.failures import explain
from services.worker.training.kept import Golden, in_place, write_json
from services.worker.training.model_facts import ModelFacts
from services.worker.training.signatures import request_of

FOLDER = Path("assets.extra") / "modelyard"
WARMUP = Path("assets.extra") / "tf_serving_warmup_requests"
_WARMUP_BATCHES = (1, 8)
Warn = Callable[[str, str], None]


def write(
    export_dir: Path,
    model: keras.Model,
    facts: ModelFacts,
    golden: Golden,
    signatures: dict[str, Any],
    warn: Warn,
) -> None:
    """Write all of it into a finished export of ``model``; ``golden`` has its answers."""
    tolerance = tolerance_of(model)

    def convert() -> None:
        twin = in_full_precision(model)
        if twin is model:
            litert_model(export_dir, export_dir, golden, signatures, tolerance)
            return
        with tempfile.TemporaryDirectory(prefix=".litert-", dir=export_dir.parent) as folder:
            place, names = Path(folder) / "float32", list(signatures)
            export(twin, facts, golden.rows, place, names, golden.answers, tolerance)
            litert_model(place, export_dir, golden, signatures, tolerance)

    parts: dict[str, Callable[[], None]] = {
        "warm-up requests": lambda: warmup_requests(export_dir, facts, golden),
        "golden requests": lambda: golden_notes(export_dir, facts, golden, tolerance),
        "LiteRT conversion": convert,
    }
    if facts.table is not None:  # LiteRT has no kernels for text
        del parts["LiteRT conversion"]
    for what, part in parts.items():
        try:
            part()
        except Exception as error:  # a convenience must not cost a job its result
            warn("beside_missing", f"The version has no {what}: {explain(error).message}")


def warmup_requests(export_dir: Path, facts: ModelFacts, golden: Golden) -> None:
    """A predict request of one row and one of eight, on the default signature.

    Raises:
        ImportError: tensorflow-serving-api, which has the messages, is not installed.
    """
    from tensorflow_serving.apis import predict_pb2, prediction_log_pb2

    def write_to(path: Path) -> None:
        with tf.io.TFRecordWriter(str(path)) as writer:
            for count in _WARMUP_BATCHES:
                request = predict_pb2.PredictRequest()
                request.model_spec.signature_name = "serving_default"
                for name, values in request_of(golden.rows[:count], facts).items():
                    request.inputs[name].CopyFrom(tf.make_tensor_proto(values))
                log = prediction_log_pb2.PredictionLog(
                    predict_log=prediction_log_pb2.PredictLog(request=request)
                )
                writer.write(log.SerializeToString())

    in_place(export_dir / WARMUP, write_to)


def golden_notes(export_dir: Path, facts: ModelFacts, golden: Golden, tolerance: float) -> None:
    """Say what the arrays of ``golden.npz``, which lies there already, are; a table's rows as raw columns, too."""
    notes: dict[str, Any] = {
        "signature": "serving_default",
        "input": facts.input_alias,
        "output": facts.output_alias,
        "tolerance": tolerance,
    }
    if facts.table is not None:
        columns = request_of(golden.rows, facts)
        notes["inputs"] = {name: [_plain(value) for value in values] for name, values in columns.items()}
    write_json(export_dir / FOLDER / "golden.json", notes)


def _plain(value: Any) -> Any:
    """One cell as JSON has it."""
    value = value.item() if hasattr(value, "item") else value
    return value.decode() if isinstance(value, bytes) else value


def litert_model(
    saved_model: Path, export_dir: Path, golden: Golden, signatures: dict[str, Any], tolerance: float
) -> None:
    """Convert the numeric signatures of ``saved_model``, and keep the result beside ``export_dir``'s own if it answers
    as training did.

    Raises:
        TrainingFailed: format_not_possible.
        ValueError: it answers something else.
    """
    names = [name for name in litert.NUMERIC if name in signatures]
    content = litert.convert(saved_model, names)
    answers = golden.answers
    if answers is None:
        raise ValueError("no golden answers to compare with")
    worst = max(difference(litert.Runner(content, name)(golden.rows), answers) for name in names)
    if not worst <= tolerance:
        raise ValueError(f"its answers differ by {worst:.2g}")
    path = export_dir / FOLDER / "litert" / "model.tflite"
    in_place(path, lambda place: place.write_bytes(content))
    described = {
        "file": "litert/model.tflite",
        "sha256": hashlib.sha256(content).hexdigest(),
    }
    write_json(
        export_dir / FOLDER / "litert.json",
        {
            "format": 1,
            "signatures": {name: {**described, **signatures[name]} for name in names},
            "largest_difference": worst,
            # A twin's conversion answers a little otherwise than the reduced precision that is served.
            **({"saved_model": saved_model_files(export_dir)} if saved_model == export_dir else {}),
        },
    )


def saved_model_files(export_dir: Path) -> dict[str, str]:
    """The SHA-256 of each file that makes the SavedModel's answers. A model server that finds these very files may
    answer from the LiteRT model without asking the SavedModel whether it agrees.
    """
    files = [export_dir / "saved_model.pb", *sorted((export_dir / "variables").iterdir())]
    return {
        file.relative_to(export_dir).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
    }
