"""The signatures of an exported SavedModel: what a client may send, and in which form it gets its answer.

    serving_default  ``image`` float32 [n, height, width, channels] in the data's own range (bytes: 0-255), or
                     ``features`` float32 [n, ...]; float32, so that whole and fractional JSON numbers both do; or, for
                     tables with columns of several kinds, one input [n] a column (see ``columns``)
    pixels           ``image`` uint8 [n, height, width, channels], a quarter of the bytes on the wire
    image_bytes      ``image_bytes`` string [n], PNG or JPEG files; colour, size and range are adapted
    class_names      rows as in serving_default -> ``class`` string [n] and its ``probability`` float32 [n]
    classify         ``inputs`` string [n], serialized tf.Example -> ``classes`` string and ``scores`` float32,
                     both [n, classes]: TensorFlow Serving's Classify
    regress          ``inputs`` string [n], serialized tf.Example -> ``outputs`` float32 [n]: its Regress

The first three answer with one tensor: ``probabilities`` float32 [n, classes] or ``value`` float32 [n, numbers].

An Example has an image as ``image/encoded`` (one PNG or JPEG file), a table's row by column name, and any other row as
``features`` (all its numbers).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from services.worker.training import columns, pixels
from services.worker.training.data.record import Array
from services.worker.training.data.table import raw_rows
from services.worker.training.model_facts import ModelFacts
from services.worker.training.pixels import Pixels

# of tensorflow/serving: servables/tensorflow/classifier.cc and regressor.cc look for these
METHODS = {"classify": "tensorflow/serving/classify", "regress": "tensorflow/serving/regress"}
TRAINED = (
    "serving_default",
    "image_bytes",
)  # what a train job's export has; an export job may add the others
IMAGE_FEATURE, ROW_FEATURE = "image/encoded", "features"
_FILE_CHANNELS = (1, 3, 4)  # what PNG files have
_MOST_COLUMNS = 256  # a table with more is one list of numbers in an Example


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A function on tensors, and the specs of its inputs; their names are the signature's aliases."""

    call: Callable[..., dict[str, Any]]
    inputs: list[Any]


def possible(facts: ModelFacts) -> list[str]:
    """Names of all signatures that make sense for the model."""
    found = ["serving_default"]
    if facts.input_kind == "image":
        found += ["pixels"] if facts.input_dtype == "uint8" else []
        found += ["image_bytes"] if facts.input_shape[-1] in _FILE_CHANNELS else []
    readable = facts.input_kind != "image" or "image_bytes" in found
    if facts.classes is not None:
        return [*found, "class_names", *(["classify"] if readable else [])]
    return [*found, "regress"] if facts.outputs == 1 and readable else found


def endpoints(model: Any, facts: ModelFacts, names: list[str], front: Any = None) -> dict[str, Endpoint]:
    """The functions behind the signatures ``names`` of ``model``, a Keras model or a function on float32 rows.

    ``front`` is ``columns.front`` of ``facts.table``, where there is one.
    """
    made = _Endpoints(model, facts, front)
    return {name: getattr(made, name)() for name in names}


class _Endpoints:
    def __init__(self, model: Any, facts: ModelFacts, front: Any) -> None:
        self._model = model
        self._facts = facts
        self._front = front

    def serving_default(self) -> Endpoint:
        return Endpoint(lambda rows: self._named(self._answer(rows)), [self._rows(tf.float32)])

    def pixels(self) -> Endpoint:
        return Endpoint(
            lambda rows: self._named(self._answer(tf.cast(rows, tf.float32))), [self._rows(tf.uint8)]
        )

    def image_bytes(self) -> Endpoint:
        spec = tf.TensorSpec((None,), tf.string, name="image_bytes")
        return Endpoint(lambda image_bytes: self._named(self._answer(self._decoded(image_bytes))), [spec])

    def class_names(self) -> Endpoint:
        def call(rows: Any) -> dict[str, Any]:
            scores = self._scores(rows)
            return {
                "class": tf.gather(self._names(), tf.argmax(scores, axis=1)),
                "probability": tf.reduce_max(scores, axis=1),
            }

        return Endpoint(call, [self._rows(tf.float32)])

    def classify(self) -> Endpoint:
        def call(inputs: Any) -> dict[str, Any]:
            scores = self._scores(self._from_examples(inputs))
            names = tf.tile(self._names()[tf.newaxis], [tf.shape(scores)[0], 1])
            return {"classes": names, "scores": scores}

        return Endpoint(call, [_EXAMPLES])

    def regress(self) -> Endpoint:
        return Endpoint(
            lambda inputs: {"outputs": self._answer(self._from_examples(inputs))[:, 0]}, [_EXAMPLES]
        )

    def _rows(self, dtype: Any) -> Any:
        if self._facts.table is not None:
            return columns.input_signature(self._facts.table)
        return tf.TensorSpec((None, *self._facts.input_shape), dtype, name=self._facts.input_alias)

    def _named(self, outputs: Any) -> dict[str, Any]:
        return {self._facts.output_alias: outputs}

    def _answer(self, rows: Any) -> Any:
        if self._front is not None:
            rows = self._front(rows)
        return probabilities(self._model(rows, training=False), self._facts)

    def _scores(self, rows: Any) -> Any:
        """One probability a class, [n, classes], for a head with one unit too."""
        found = self._answer(rows)
        if self._facts.outputs == 1:
            return tf.concat([1.0 - found, found], axis=1)
        return found[:, : len(self._facts.classes or ())]  # a head may have units that no class has

    def _names(self) -> Any:
        return tf.constant(self._facts.classes, tf.string)

    def _decoded(self, files: Any) -> Any:
        height, width, channels = self._facts.input_shape
        return decoded(
            files, self._facts.pixels or Pixels(height, width, channels), self._facts.largest_value / 255.0
        )

    def _from_examples(self, examples: Any) -> Any:
        facts = self._facts
        if facts.input_kind == "image":
            spec = {IMAGE_FEATURE: tf.io.FixedLenFeature([], tf.string)}
            return self._decoded(tf.io.parse_example(examples, spec)[IMAGE_FEATURE])
        if facts.table is not None:
            return columns.from_examples(examples, facts.table)
        if by_column(facts):
            names = facts.columns or []
            parsed = tf.io.parse_example(
                examples, {name: tf.io.FixedLenFeature([], tf.float32) for name in names}
            )
            return tf.stack([parsed[name] for name in names], axis=1)
        spec = {ROW_FEATURE: tf.io.FixedLenFeature(facts.input_shape, tf.float32)}
        return tf.io.parse_example(examples, spec)[ROW_FEATURE]


_EXAMPLES = tf.TensorSpec((None,), tf.string, name="inputs")


def by_column(facts: ModelFacts) -> bool:
    """Whether an Example has the row's numbers under their columns' names."""
    columns = facts.columns
    return columns is not None and len(columns) <= _MOST_COLUMNS and facts.input_shape == (len(columns),)


def probabilities(outputs: Any, facts: ModelFacts) -> Any:
    """The model's outputs as they are served: float32, and never logits."""
    if facts.logits:
        outputs = tf.sigmoid(outputs) if facts.outputs == 1 else tf.nn.softmax(outputs)
    return tf.cast(outputs, tf.float32)


def decoded(files: Any, how: Pixels, scale: float) -> Any:
    """Image files, string [n], as float32 [n, height, width, channels] with values up to 255 times ``scale``."""
    return tf.map_fn(
        lambda file: pixels.decode(file, how) * scale,
        files,
        fn_output_signature=tf.TensorSpec(how.shape, tf.float32),
    )


def request_of(rows: Array, facts: ModelFacts) -> dict[str, Array]:
    """Rows [n, ...] of the data as ``serving_default`` takes them, by input."""
    if facts.table is not None:
        return raw_rows(facts.table, rows)
    return {facts.input_alias: rows.astype(np.float32)}
