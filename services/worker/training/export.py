"""The trained model as a SavedModel that takes what a client has, proven before it is handed on.

Signatures, each with one input and one output:

    serving_default  ``image`` float32 [n, height, width, channels] in the data's own range (bytes: 0-255), or
                     ``features`` float32 [n, ...]; float32, so that whole and fractional JSON numbers both do
    image_bytes      for images: ``image_bytes`` string [n], PNG or JPEG files; colour, size and range are adapted

The output is ``probabilities`` [n, classes] or ``value`` [n, numbers].
"""

from __future__ import annotations

import io
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from services.worker.training.compiling import Compiled
from services.worker.training.data.record import Array, TrainingData
from services.worker.training.failures import TrainingFailed
from services.worker.training.heads import Head
from services.worker.training.models import input_alias

TOLERANCE = 1e-5
_PROVEN_ROWS = 4


@dataclass(frozen=True, slots=True)
class Exported:
    """What was written: signatures as {name: {"inputs": {alias: {"dtype", "shape"}}, "outputs": ...}}."""

    signatures: dict[str, Any]
    largest_difference: float


def output_alias(data: TrainingData) -> str:
    """The name of the output in all signatures."""
    return "probabilities" if data.classes is not None else "value"


def export(model: keras.Model, data: TrainingData, head: Head, compiled: Compiled, target: Path) -> Exported:
    """Write the SavedModel to ``target``, replacing an earlier one, once it has proven to answer as ``model`` does.

    Raises:
        TrainingFailed: export_mismatch.
        OSError: the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    staging.chmod(0o755)
    try:
        _write(model, data, head, compiled, staging)
        exported = _prove(model, data, compiled, staging)
        shutil.rmtree(target, ignore_errors=True)
        staging.rename(target)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return exported


def _write(model: keras.Model, data: TrainingData, head: Head, compiled: Compiled, folder: Path) -> None:
    alias, name = input_alias(data), output_alias(data)

    def answer(rows: Any) -> dict[str, Any]:
        outputs = model(rows, training=False)
        if compiled.logits:
            outputs = tf.sigmoid(outputs) if head.units == 1 else tf.nn.softmax(outputs)
        return {name: tf.cast(outputs, tf.float32)}

    archive = keras.export.ExportArchive()
    archive.track(model)
    shape = (None, *data.input_shape)
    archive.add_endpoint(
        "serving_default", answer, input_signature=[tf.TensorSpec(shape, tf.float32, name=alias)]
    )
    if data.input_kind == "image":
        scale = data.pixel_scale / 255.0

        def from_bytes(image_bytes: Any) -> dict[str, Any]:
            return answer(decoded(image_bytes, data.input_shape, scale))

        archive.add_endpoint(
            "image_bytes", from_bytes, input_signature=[tf.TensorSpec((None,), tf.string, name="image_bytes")]
        )
    archive.write_out(str(folder), verbose=False)


def decoded(files: Any, shape: tuple[int, ...], scale: float) -> Any:
    """Image files, string [n], as float32 [n, *shape] with values up to 255 times ``scale``."""
    height, width, channels = shape

    def one(file: Any) -> Any:
        pixels = tf.io.decode_image(file, channels=channels, expand_animations=False)
        pixels.set_shape([None, None, channels])
        resized = tf.image.resize(tf.cast(pixels, tf.float32), [height, width], antialias=True)
        return tf.ensure_shape(resized, shape) * scale

    return tf.map_fn(one, files, fn_output_signature=tf.TensorSpec(shape, tf.float32))


def _prove(model: keras.Model, data: TrainingData, compiled: Compiled, folder: Path) -> Exported:
    loaded = tf.saved_model.load(str(folder))
    rows = (data.test if data.test is not None else data.train).x[:_PROVEN_ROWS]
    floats = rows.astype(np.float32)
    expected = np.asarray(model(tf.constant(floats), training=False))
    if compiled.logits:
        expected = _probabilities(expected)
    name = output_alias(data)
    answers = {
        "serving_default": loaded.signatures["serving_default"](**{input_alias(data): tf.constant(floats)})[
            name
        ]
    }
    if rows.dtype == np.uint8 and data.input_kind == "image":
        files = tf.constant([_png(row) for row in rows])
        answers["image_bytes"] = loaded.signatures["image_bytes"](image_bytes=files)[name]
    scale = max(1.0, float(np.abs(expected).max()))
    worst = max(float(np.abs(np.asarray(answer) - expected).max()) for answer in answers.values()) / scale
    # a model trained on with on_nan=continue may answer NaN; so must its export
    if not worst <= TOLERANCE and np.isfinite(expected).all():
        raise TrainingFailed(
            "export_mismatch",
            f"The exported model's answers differ from the trained model's by {worst:.2g}.",
            "This is a defect of Modelyard or TensorFlow, not of the job; the log has the versions.",
        )
    return Exported(signatures=_describe(loaded.signatures), largest_difference=worst)


def _probabilities(logits: Array) -> Array:
    if logits.shape[1] == 1:
        return np.asarray(tf.sigmoid(logits))
    return np.asarray(tf.nn.softmax(logits))


def _png(row: Array) -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.fromarray(row[:, :, 0] if row.shape[-1] == 1 else row).save(out, "PNG")
    return out.getvalue()


def _describe(signatures: Any) -> dict[str, Any]:
    return {
        name: {
            "inputs": {alias: _spec(spec) for alias, spec in signature.structured_input_signature[1].items()},
            "outputs": {alias: _spec(spec) for alias, spec in signature.structured_outputs.items()},
        }
        for name, signature in signatures.items()
        if not name.startswith("__")
    }


def _spec(spec: Any) -> dict[str, Any]:
    return {"dtype": spec.dtype.name, "shape": spec.shape.as_list()}
