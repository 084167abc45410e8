"""The raw-column front end of a model that was trained on a table: what it takes from clients, and what it does inside.

Training happens on a float32 matrix [rows, columns], numeric columns first, then the codes of the categorical ones.
``encoder`` is the model's own first part: numbers are normalized, codes become one-hot rows or embeddings. ``front`` is
put before the model when it is exported: one named input a column, looked up by Keras' own layers, so that a client
sends ``{"age": 41.0, "color": "red"}``. A value that training has not seen gets code 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from services.worker.training.data.moments import mean_and_variance
from services.worker.training.data.record import Array, RowArray
from services.worker.training.data.table import Column, raw_rows

FRONT = "raw_columns"  # name of the model of lookups


def encoder(table: Sequence[Column], x: RowArray, *, normalize: bool) -> keras.Model:
    """A model from the matrix [batch, columns] to what a dense layer can use, [batch, width].

    Args:
        table: the matrix' columns.
        x: the training rows, whose numeric columns give mean and variance.
        normalize: False leaves numbers as they are.
    """
    layers = keras.layers
    inputs = keras.Input((len(table),), name="columns")
    numbers = sum(column.kind != "categorical" for column in table)
    parts: list[Any] = []
    if numbers:
        block = inputs[:, :numbers]
        if normalize:
            mean, variance = (part[:numbers] for part in mean_and_variance(x))
            variance[variance == 0] = 1.0  # a constant column carries nothing; it must not become NaN either
            block = layers.Normalization(mean=mean.tolist(), variance=variance.tolist(), name="normalize")(
                block
            )
        parts.append(block)
    for index, column in enumerate(table[numbers:], start=numbers):
        codes, count = inputs[:, index], len(column.values) + 1
        if column.encoding == "embedding":
            parts.append(layers.Embedding(count, column.dimensions, name=f"{column.alias}_embedding")(codes))
        else:
            one_hot = layers.CategoryEncoding(count, output_mode="one_hot", name=f"{column.alias}_one_hot")
            parts.append(one_hot(codes))
    outputs = layers.Concatenate(name="encoded")(parts) if len(parts) > 1 else parts[0]
    return keras.Model(inputs, outputs, name="encode")


def front(table: Sequence[Column]) -> keras.Model:
    """A model from one input [batch] a column, named by the columns' aliases, to the matrix float32 [batch, columns].

    Inputs are float32 (NaN where a number is missing), bool, string, or int64 (categories that are whole numbers).
    """
    inputs = {column.alias: keras.Input((), dtype=column.dtype, name=column.alias) for column in table}
    numbers = [_number(column, inputs[column.alias]) for column in table]
    return keras.Model(inputs, keras.ops.stack(numbers, axis=1), name=FRONT)


def on_raw_columns(model: keras.Model, table: Sequence[Column]) -> keras.Model:
    """``model``, which takes the matrix, behind ``front``: one model with an input a column, in Keras' own layers.

    It shares all weights with ``model``, and if that is compiled it is too, with the state of the optimizer, so that
    training can go on from raw columns.
    """
    lookups = front(table)
    inputs = {column.alias: keras.Input((), dtype=column.dtype, name=column.alias) for column in table}
    if model.name in {*inputs, FRONT}:  # layers of one model need different names
        model.name = f"{model.name}_model"
    whole = keras.Model(inputs, model(lookups(inputs)), name="on_raw_columns")
    config = model.get_compile_config() if getattr(model, "optimizer", None) is not None else None
    if config is not None:
        whole.compile_from_config(config)
        for variable, value in zip(whole.optimizer.variables, model.optimizer.variables, strict=True):
            variable.assign(value)
    return whole


def input_signature(table: Sequence[Column]) -> dict[str, Any]:
    """A ``TensorSpec`` for each input of ``front``, by alias."""
    return {
        column.alias: tf.TensorSpec((None,), getattr(tf, column.dtype), name=column.alias) for column in table
    }


def example_features(table: Sequence[Column]) -> dict[str, Any]:
    """How a ``tf.Example`` holds a row: a feature a column, by the column's name; what may be missing may be absent."""
    found: dict[str, Any] = {}
    for column in table:
        if column.kind == "categorical" and column.dtype == "string":
            found[column.name] = tf.io.FixedLenFeature([], tf.string, "" if column.missing else None)
        elif column.kind == "numeric":
            found[column.name] = tf.io.FixedLenFeature([], tf.float32, column.fill)
        else:
            found[column.name] = tf.io.FixedLenFeature([], tf.int64)
    return found


def from_examples(examples: Any, table: Sequence[Column]) -> dict[str, Any]:
    """Serialized examples, string [n], as the inputs of ``front``."""
    parsed = tf.io.parse_example(examples, example_features(table))
    return {column.alias: tf.cast(parsed[column.name], getattr(tf, column.dtype)) for column in table}


def example_of(row: Array, table: Sequence[Column]) -> dict[str, Any]:
    """One row of the matrix, float32 [columns], as the features of a ``tf.train.Example``."""
    raw = raw_rows(table, row[np.newaxis])
    found: dict[str, Any] = {}
    for column in table:
        value = raw[column.alias][0]
        if column.dtype == "string":
            feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[str(value).encode()]))
        elif column.dtype == "float32":
            feature = tf.train.Feature(float_list=tf.train.FloatList(value=[float(value)]))
        else:
            feature = tf.train.Feature(int64_list=tf.train.Int64List(value=[int(value)]))
        found[column.name] = feature
    return found


def _number(column: Column, raw: Any) -> Any:
    layers, ops = keras.layers, keras.ops
    if column.kind == "categorical":
        lookup = layers.StringLookup if column.dtype == "string" else layers.IntegerLookup
        return ops.cast(lookup(vocabulary=list(column.values), name=f"{column.alias}_lookup")(raw), "float32")
    if column.kind == "boolean":
        return ops.cast(raw, "float32")
    return raw if column.fill is None else ops.where(ops.isnan(raw), column.fill, raw)
