"""Writes a trained model in one format, loads it back, and says how far its answers are from the original's.

Each writer takes a ``Written`` place and returns ``Proof``; a format that the model can't have is a TrainingFailed
``format_not_possible`` in words.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from services.worker.training import columns, kept, litert, sources
from services.worker.training import export as saved_models
from services.worker.training.data.record import Array
from services.worker.training.data.table import Column
from services.worker.training.export import answers_of, difference, in_full_precision, tolerance_of
from services.worker.training.failures import TrainingFailed, shorten
from services.worker.training.model_facts import ModelFacts
from services.worker.training.signatures import probabilities, request_of
from services.worker.training.sources import SourceModel
from shared.specs.export import Format, OnnxFormat, TfliteFormat, file_stem

QUANTIZED_TOLERANCE = {"float16": 0.01, "dynamic_range": 0.1, "int8": 0.25}


@dataclass(frozen=True, slots=True)
class Proof:
    """What was written and how it compares.

    Attributes:
        files: relative to the export's folder; a SavedModel is its folder.
        difference: the largest of any answer, relative to the largest answer (1 at least).
        notes: more about it, for people.
    """

    files: list[str]
    difference: float
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass
class Writer:
    """Writes one model below ``folder``. ``expected`` is float32 [n, outputs], the answers to the golden rows."""

    source: SourceModel
    expected: Array
    folder: Path
    signatures: list[str] | None = None
    described: dict[str, Any] = field(
        default_factory=dict
    )  # of the SavedModel's signatures, once it is written

    def write(self, item: Format) -> Proof:
        """Write ``item`` and load it back.

        Raises:
            TrainingFailed: format_not_possible; export_mismatch: what was written answers something else.
            OSError: the disk is full.
        """
        writers: dict[str, Callable[[Any], Proof]] = {
            "saved_model": self._saved_model,
            "keras": self._keras,
            "h5": self._h5,
            "weights": self._weights,
            "tflite": self._tflite,
            "onnx": self._onnx,
        }
        proof = writers[item.format](item)
        limit = self._limit(item)
        # a model trained on with on_nan=continue may answer NaN; so must its export
        if not proof.difference <= limit and np.isfinite(self.expected).all():
            raise TrainingFailed(
                "export_mismatch",
                f"The answers of {file_stem(item)} differ from the original's by {proof.difference:.2g}; "
                f"{limit:.2g} is allowed.",
                "Use a milder quantization, or set max_difference of this format if that is good enough for you."
                if isinstance(item, TfliteFormat) and item.quantization != "none"
                else "This is a defect of Modelyard or a converter, not of the job; the log has the versions.",
            )
        return proof

    def _saved_model(self, item: Format) -> Proof:
        target = self.folder / "saved_model"
        exported = saved_models.export(
            self.source.model,
            self.source.facts,
            self.source.golden.rows,
            target,
            names=self.signatures or saved_models.every_signature(self.source.facts),
            expected=self.expected,
        )
        self.described = exported.signatures
        return Proof(
            ["saved_model"], exported.largest_difference, {"signatures": sorted(exported.signatures)}
        )

    def _keras(self, item: Format) -> Proof:
        path = self.folder / "model.keras"
        if self.source.facts.table is not None:
            self._on_raw_columns(self.source.facts.table).save(path)
            return Proof(
                [path.name], self._raw_difference(sources.load_keras(path)), {"inputs": "raw columns"}
            )
        if self.source.file is not None:
            shutil.copyfile(self.source.file, path)  # with the optimizer's state, and not a byte changed
        else:
            self.source.model.save(path)
        return Proof([path.name], self._keras_difference(sources.load_keras(path)))

    def _h5(self, item: Format) -> Proof:
        path = self.folder / "model.h5"
        # Saving to HDF5 takes a model's compile config away (Keras 3.15), so it must be one that has none: this
        # process loads all models uncompiled.
        self.source.model.save(path)
        notes = {
            "after_loading": "load with compile=False and compile anew; the optimizer is not in the file"
        }
        try:
            again = sources.load_keras(path)
        except TrainingFailed as error:  # layers made of bare operations (x[:, :2], keras.ops) among others
            path.unlink()
            raise TrainingFailed(
                "format_not_possible",
                f"h5: HDF5 files can't hold this model; Keras does not load what it wrote: "
                f"{shorten(str(error.__cause__ or error), 200)}",
                "Use keras, which holds every model, or weights with its architecture.json.",
            ) from error
        return Proof([path.name], self._keras_difference(again), notes)

    def _weights(self, item: Format) -> Proof:
        path, beside = self.folder / "model.weights.h5", self.folder / kept.ARCHITECTURE
        self.source.model.save_weights(path)
        beside.write_text(self.source.model.to_json())
        again = sources.architecture(beside)
        sources.load_weights(again, path)
        return Proof([path.name, beside.name], self._keras_difference(again))

    def _tflite(self, item: TfliteFormat) -> Proof:
        saved_model, names = self._numeric_saved_model()
        golden = self.source.golden
        content = litert.convert(saved_model, names, item.quantization, golden.rows)
        path = self.folder / file_stem(item).replace("tflite", "model", 1)
        path = path.with_name(path.name + ".tflite")
        path.write_bytes(content)
        answers = [litert.Runner(content, name)(golden.rows) for name in names]
        worst = max(difference(answer, self.expected) for answer in answers)
        notes: dict[str, Any] = {"signatures": names, "quantization": item.quantization}
        if item.quantization != "none":
            notes |= _agreement(answers[0], self.expected, golden.targets, self.source.facts)
        return Proof([path.name], worst, notes)

    def _numeric_saved_model(self) -> tuple[Path, list[str]]:
        facts = self.source.facts
        if facts.table is not None:
            raise TrainingFailed(
                "format_not_possible",
                "tflite: the model takes a table's raw columns, and LiteRT has no lookup of text",
                "Use saved_model or keras for such a model; onnx and weights take the matrix of numbers and codes.",
            )
        wanted = [name for name in litert.NUMERIC if name in saved_models.every_signature(facts)]
        if self.signatures is not None:
            wanted = [name for name in wanted if name in self.signatures]
        if not wanted:
            raise TrainingFailed(
                "format_not_possible",
                "tflite: none of the signatures asked for takes numbers and gives numbers",
                f"LiteRT has no PNG decoder and no tf.Example parser; add one of {', '.join(litert.NUMERIC)}.",
            )
        target = self.folder / ".numeric"
        if not target.exists():
            saved_models.export(
                in_full_precision(self.source.model),
                facts,
                self.source.golden.rows,
                target,
                names=wanted,
                expected=self.expected,
                tolerance=tolerance_of(self.source.model),
            )
        return target, wanted

    def _onnx(self, item: OnnxFormat) -> Proof:
        facts = self.source.facts
        path = self.folder / "model.onnx"
        spec = tf.TensorSpec((None, *facts.input_shape), tf.float32, name=facts.input_alias)
        try:
            model = served(in_full_precision(self.source.model), facts)
            with _constants_within(model):
                model.export(
                    str(path), format="onnx", input_signature=[spec], opset_version=item.opset, verbose=False
                )
        except ImportError as error:
            raise TrainingFailed(
                "format_not_possible",
                "onnx: the package tf2onnx is not installed on this worker.",
                "Install modelyard[formats] on the worker.",
            ) from error
        except Exception as error:  # tf2onnx raises whatever its parts do
            raise TrainingFailed(
                "format_not_possible",
                f"ONNX can't express this model: {shorten(str(error), 400)}",
                "Leave onnx out of the formats, or try another opset.",
            ) from error
        return Proof([path.name], difference(_onnx_answers(path, self.source.golden.rows), self.expected))

    def _keras_difference(self, model: keras.Model) -> float:
        return difference(answers_of(model, self.source.facts, self.source.golden.rows), self.expected)

    def _on_raw_columns(self, table: Sequence[Column]) -> keras.Model:
        # compiled, if the source's file has the optimizer's state: training goes on from the export too
        path = self.source.file
        model = sources.load_keras(path, compile=True) if path is not None else self.source.model
        return columns.on_raw_columns(model, table)

    def _raw_difference(self, model: keras.Model) -> float:
        request = request_of(self.source.golden.rows, self.source.facts)
        outputs = model({name: tf.constant(values) for name, values in request.items()}, training=False)
        return difference(probabilities(outputs, self.source.facts).numpy(), self.expected)

    def _limit(self, item: Format) -> float:
        usual = tolerance_of(self.source.model)
        if not isinstance(item, TfliteFormat):
            return usual
        return item.max_difference or max(usual, QUANTIZED_TOLERANCE.get(item.quantization, 0.0))

    def close(self) -> None:
        """Remove what was only needed on the way."""
        shutil.rmtree(self.folder / ".numeric", ignore_errors=True)


def served(model: keras.Model, facts: ModelFacts) -> keras.Model:
    """``model`` with names at both ends, and with probabilities where it gives logits."""
    inputs = keras.Input(facts.input_shape, name=facts.input_alias)
    # Keras' augmentation layers work unless they are told not to
    outputs = model(inputs, training=False)
    function = "linear"
    if facts.logits:
        function = "sigmoid" if facts.outputs == 1 else "softmax"
    last = keras.layers.Activation(function, dtype="float32", name=facts.output_alias)
    return keras.Model(inputs, last(outputs), name="served")


@contextmanager
def _constants_within(model: keras.Model) -> Iterator[None]:
    """Have given means and variances traced as constants: tf2onnx makes tensors from outside inputs of the model."""
    held = [
        layer
        for layer in model._flatten_layers()
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is not None
    ]
    tensors = [(layer.mean, layer.variance) for layer in held]
    for layer in held:
        layer.mean, layer.variance = np.asarray(layer.mean), np.asarray(layer.variance)
    try:
        yield
    finally:
        for layer, (mean, variance) in zip(held, tensors, strict=True):
            layer.mean, layer.variance = mean, variance


def _onnx_answers(path: Path, rows: Array) -> Array:
    try:
        import onnxruntime
    except ImportError as error:
        raise TrainingFailed(
            "format_not_possible",
            "onnx: the package onnxruntime, which an export is checked with, is not installed on this worker.",
            "Install modelyard[formats] on the worker.",
        ) from error
    try:
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        (given,) = session.get_inputs()
        (answer,) = session.run(None, {given.name: rows.astype(np.float32)})
    except Exception as error:  # onnxruntime's own kinds, and ValueError for inputs too many
        raise TrainingFailed(
            "format_not_possible",
            f"ONNX can't express this model; onnxruntime refuses what was written: {shorten(str(error), 400)}",
            "Leave onnx out of the formats, or try another opset.",
        ) from error
    return np.asarray(answer)


def _agreement(answers: Array, expected: Array, targets: Array, facts: ModelFacts) -> dict[str, Any]:
    """How often a quantised classifier says the same as the original, and how often each is right."""
    if facts.classes is None:
        return {"mean_difference": float(np.abs(answers - expected).mean())}

    def top(values: Array) -> Array:
        return values.argmax(axis=1) if values.shape[1] > 1 else (values[:, 0] >= 0.5).astype(int)

    found: dict[str, Any] = {"agreement": float((top(answers) == top(expected)).mean())}
    if targets.ndim == 1:
        found["accuracy"] = float((top(answers) == targets).mean())
        found["original_accuracy"] = float((top(expected) == targets).mean())
    return found
