"""LiteRT (TensorFlow Lite): from a SavedModel's numeric signatures to one flat buffer, and what it answers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from services.worker.training.data.record import Array
from services.worker.training.failures import TrainingFailed, shorten

Quantization = Literal["none", "float16", "dynamic_range", "int8"]
# tensors in, tensors out; no LiteRT kernel decodes a PNG file or parses a tf.Example
NUMERIC = ("serving_default", "pixels")
_THREADS = 1


def convert(
    saved_model: Path, names: list[str], quantization: Quantization = "none", rows: Array | None = None
) -> bytes:
    """The signatures ``names`` of a SavedModel as one LiteRT model.

    Args:
        rows: for int8: rows [n, ...] that show the range of every activation; inputs and outputs stay float32.

    Raises:
        TrainingFailed: format_not_possible, with the converter's reason.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=names)
    if quantization != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if quantization == "int8":
        if rows is None:
            raise ValueError("int8 needs rows")
        converter.representative_dataset = lambda: _samples(saved_model, names, rows)
    try:
        return bytes(converter.convert())
    except Exception as error:  # ConverterError and what its passes raise; none of it is ours to name
        raise TrainingFailed(
            "format_not_possible",
            f"LiteRT can't express this model: {shorten(_reason(str(error)), 400)}",
            "Leave tflite out of the formats; the job's log has the converter's own words.",
        ) from error


def _samples(saved_model: Path, names: list[str], rows: Array) -> Iterator[Any]:
    specs = tf.saved_model.load(str(saved_model)).signatures
    inputs = {name: specs[name].structured_input_signature[1] for name in names}
    for row in rows:
        for name in names:
            ((alias, spec),) = inputs[name].items()
            yield name, {alias: row[np.newaxis].astype(spec.dtype.as_numpy_dtype)}


def _reason(text: str) -> str:
    """The converter's first complaint, out of pages of MLIR."""
    lines = [line for line in text.splitlines() if "error:" in line or "is neither a custom op" in line]
    return lines[0] if lines else text


class Runner:
    """One signature of a LiteRT model, on one thread. Not thread-safe."""

    def __init__(self, content: bytes, name: str) -> None:
        """Load ``content``, which some interpreter of this machine must know how to run.

        Raises:
            TrainingFailed: format_not_possible: the package is missing, or the model can't be loaded.
        """
        try:
            from ai_edge_litert.interpreter import Interpreter
        except ImportError as error:
            raise TrainingFailed(
                "format_not_possible",
                "The package ai-edge-litert, which an export is checked with, is not installed on this worker.",
                "Install modelyard[formats] on the worker.",
            ) from error
        try:
            self._interpreter = Interpreter(model_content=content, num_threads=_THREADS)
            self._run = self._interpreter.get_signature_runner(name)
        except (ValueError, RuntimeError) as error:
            raise TrainingFailed(
                "format_not_possible", f"LiteRT can't load what was converted: {shorten(str(error), 300)}"
            ) from error
        ((self.input, details),) = self._run.get_input_details().items()
        ((self.output, _),) = self._run.get_output_details().items()
        self._dtype = details["dtype"]

    def __call__(self, rows: Array) -> Array:
        """Outputs [n, ...] for ``rows`` [n, ...], which are sent as one batch."""
        answer = self._run(**{self.input: np.ascontiguousarray(rows, self._dtype)})
        return np.asarray(answer[self.output])
