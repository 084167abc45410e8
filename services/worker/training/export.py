"""The trained model as a SavedModel that takes what a client has, proven before it is handed on.

Which signatures there are, ``signatures`` says.
"""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from services.worker.training import columns, signatures
from services.worker.training.data.record import Array
from services.worker.training.failures import TrainingFailed
from services.worker.training.model_facts import ModelFacts

TOLERANCE = 1e-5
HALF_TOLERANCES = {"float16": 0.01, "bfloat16": 0.05}  # where activations have 11 or 8 bits


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: signatures as {name: {"inputs": {alias: {"dtype", "shape"}}, "outputs": ...}}."""

    signatures: dict[str, Any]
    largest_difference: float


def every_signature(facts: ModelFacts) -> list[str]:
    """All signatures that make sense for the model."""
    return signatures.possible(facts)


def answers_of(model: keras.Model, facts: ModelFacts, rows: Array) -> Array:
    """What ``model`` answers to ``rows`` as they are served: float32 [n, outputs]."""
    outputs = model(tf.constant(rows.astype(np.float32)), training=False)
    return np.asarray(signatures.probabilities(outputs, facts).numpy())


def export(
    model: keras.Model,
    facts: ModelFacts,
    rows: Array,
    target: Path,
    names: list[str] | None = None,
    expected: Array | None = None,
    tolerance: float | None = None,
) -> Exported:
    """Write the SavedModel to ``target``, replacing an earlier one, once it has proven to answer as ``model`` does.

    Args:
        rows: some rows of the data, on which it is proven.
        names: of signatures; None: those of a train job.
        expected: what the original answers to ``rows``; None: what ``model`` does.
        tolerance: how far its answers may be from these; None: as far as those of ``model``'s precision may.

    Raises:
        TrainingFailed: export_mismatch.
        OSError: the disk is full.
    """
    possible = signatures.possible(facts)
    names = [name for name in (names or signatures.TRAINED) if name in possible]
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    staging.chmod(0o755)
    try:
        _write(model, facts, names, staging)
        wanted = answers_of(model, facts, rows) if expected is None else expected
        exported = _prove(facts, rows, wanted, staging, tolerance or tolerance_of(model))
        shutil.rmtree(target, ignore_errors=True)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return exported


def _write(model: keras.Model, facts: ModelFacts, names: list[str], folder: Path) -> None:
    archive = keras.export.ExportArchive()
    archive.track(model)
    front = columns.front(facts.table) if facts.table is not None else None
    if front is not None:
        archive.track(front)
    for name, endpoint in signatures.endpoints(model, facts, names, front).items():
        archive.add_endpoint(name, endpoint.call, input_signature=endpoint.inputs)
    archive.write_out(str(folder), verbose=False)
    methods = {name: method for name, method in signatures.METHODS.items() if name in names}
    if methods:
        updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(folder))
        for name, method in methods.items():
            updater.replace_method_name(signature_key=name, method_name=method)
        updater.save()


def difference(answer: Array, expected: Array) -> float:
    """The largest difference of any number, relative to the largest one expected (1 at least)."""
    scale = max(1.0, float(np.abs(expected).max()))
    return float(np.abs(answer - expected).max()) / scale


def in_full_precision(model: keras.Model) -> keras.Model:
    """``model``, or its twin with the same weights that computes in float32 where it computes in less: LiteRT and ONNX
    have no kernels for mixed precision.
    """
    if tolerance_of(model) == TOLERANCE:
        return model
    config = json.loads(model.to_json())
    _to_float32(config)
    config.pop("compile_config", None)
    twin = keras.saving.deserialize_keras_object(config, safe_mode=True)
    twin.set_weights(model.get_weights())
    return twin


def _to_float32(node: Any) -> None:
    if isinstance(node, list):
        for item in node:
            _to_float32(item)
    elif isinstance(node, dict):
        if node.get("class_name") == "DTypePolicy":
            node["config"] = {"name": "float32"}
        for item in node.values():
            _to_float32(item)


def tolerance_of(model: keras.Model) -> float:
    """How far answers may be apart that come from other programs with the same weights, as ``difference`` says it."""
    computed = {getattr(layer, "compute_dtype", None) for layer in model.layers}
    return max(TOLERANCE, *(limit for dtype, limit in HALF_TOLERANCES.items() if dtype in computed), 0.0)


def _prove(facts: ModelFacts, rows: Array, expected: Array, folder: Path, tolerance: float) -> Exported:
    loaded = tf.saved_model.load(str(folder))
    proof = _Proof(facts, rows, expected)
    worst = 0.0
    for name, signature in loaded.signatures.items():
        found = getattr(proof, name)(signature)
        if found is not None:
            worst = max(worst, found)
    # a model trained on with on_nan=continue may answer NaN; so must its export
    if not worst <= tolerance and np.isfinite(expected).all():
        raise TrainingFailed(
            "export_mismatch",
            f"The exported model's answers differ from the trained model's by {worst:.2g}.",
            "This is a defect of Modelyard or TensorFlow, not of the job; the log has the versions.",
        )
    return Exported(signatures=_describe(loaded.signatures), largest_difference=worst)


class _Proof:
    """How far each signature's answers are from what is expected; None where the rows can't be sent that way."""

    def __init__(self, facts: ModelFacts, rows: Array, expected: Array) -> None:
        self._facts = facts
        self._rows = rows
        self._expected = expected
        self._request = {
            name: tf.constant(values) for name, values in signatures.request_of(rows, facts).items()
        }

    def serving_default(self, signature: Callable[..., Any]) -> float:
        return self._numbers(signature(**self._request))

    def pixels(self, signature: Callable[..., Any]) -> float:
        return self._numbers(signature(**{self._facts.input_alias: tf.constant(self._rows)}))

    def image_bytes(self, signature: Callable[..., Any]) -> float | None:
        if self._rows.dtype != np.uint8:
            return None
        return self._numbers(signature(image_bytes=tf.constant([png(row) for row in self._rows])))

    def class_names(self, signature: Callable[..., Any]) -> float:
        answer = signature(**self._request)
        scores = self._scores()
        classes = np.array(self._facts.classes or [])
        found = np.array([name.decode() for name in answer["class"].numpy()])
        # of two equal scores either may come first
        chosen = scores[np.arange(len(scores)), [int(np.flatnonzero(classes == name)[0]) for name in found]]
        return max(difference(chosen, scores.max(axis=1)), difference(answer["probability"].numpy(), chosen))

    def classify(self, signature: Callable[..., Any]) -> float | None:
        examples = self._examples()
        if examples is None:
            return None
        answer = signature(inputs=tf.constant(examples))
        names = [name.decode() for name in answer["classes"].numpy()[0]]
        if names != self._facts.classes:
            return float("inf")
        return difference(answer["scores"].numpy(), self._scores())

    def regress(self, signature: Callable[..., Any]) -> float | None:
        examples = self._examples()
        if examples is None:
            return None
        return difference(signature(inputs=tf.constant(examples))["outputs"].numpy(), self._expected[:, 0])

    def _numbers(self, answer: Any) -> float:
        return difference(answer[self._facts.output_alias].numpy(), self._expected)

    def _scores(self) -> Array:
        if self._facts.outputs == 1:
            return np.concatenate([1.0 - self._expected, self._expected], axis=1)
        return self._expected[:, : len(self._facts.classes or ())]

    def _examples(self) -> list[bytes] | None:
        if self._facts.input_kind == "image" and self._rows.dtype != np.uint8:
            return None
        return [example(row, self._facts) for row in self._rows]


def example(row: Array, facts: ModelFacts) -> bytes:
    """One row as the serialized tf.Example that ``classify`` and ``regress`` take."""

    def floats(values: Any) -> Any:
        return tf.train.Feature(float_list=tf.train.FloatList(value=values))

    if facts.input_kind == "image":
        feature = {
            signatures.IMAGE_FEATURE: tf.train.Feature(bytes_list=tf.train.BytesList(value=[png(row)]))
        }
    elif facts.table is not None:
        feature = columns.example_of(row, facts.table)
    elif signatures.by_column(facts):
        feature = {name: floats([value]) for name, value in zip(facts.columns or (), row, strict=True)}
    else:
        feature = {signatures.ROW_FEATURE: floats(row.ravel())}
    return bytes(tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString())


def png(row: Array) -> bytes:
    """A uint8 image [height, width, 1, 3 or 4] as a PNG file."""
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(row[:, :, 0] if row.shape[-1] == 1 else row).save(out, "PNG")
    return out.getvalue()


def _describe(found: Any) -> dict[str, Any]:
    return {
        name: {
            "inputs": {alias: _spec(spec) for alias, spec in signature.structured_input_signature[1].items()},
            "outputs": {alias: _spec(spec) for alias, spec in signature.structured_outputs.items()},
        }
        for name, signature in found.items()
        if not name.startswith("__")
    }


def _spec(spec: Any) -> dict[str, Any]:
    return {"dtype": spec.dtype.name, "shape": spec.shape.as_list()}
