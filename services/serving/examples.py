"""Classify and regress requests: JSON examples to serialized ``tf.Example`` messages.

The wire format is written by hand: it is three nested lists, TensorFlow stays out of this process' request path,
and concatenating two messages *is* protobuf's way of merging them, which the context needs.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from services.serving.decode import c_string, from_base64, is_base64
from services.serving.errors import invalid_argument
from services.serving.json_echo import echo, type_name
from services.serving.signature import Array

# Field numbers within tf.Feature, whose oneof they also name.
_BYTES, _FLOAT, _INT64 = 1, 2, 3
_KIND_NAMES = {_BYTES: "bytes", _FLOAT: "float", _INT64: "int64"}


def decode_examples(document: dict[str, Any]) -> Array:
    """The examples of a request, each with the context put in front of it.

    Returns:
        Serialized ``tf.Example`` messages: shape [number of examples], dtype object holding bytes. A feature that
        is in the context and in the example has the example's value (the later one wins when parsed).

    Raises:
        ServingError: INVALID_ARGUMENT, TensorFlow Serving's texts.
    """
    context = _example(document["context"]) if "context" in document else b""
    if "examples" not in document:
        # It says "classify" for regress requests too.
        raise invalid_argument(
            f"JSON Value: {echo(document)} When method is classify, key 'examples' is expected and was not found"
        )
    examples = document["examples"]
    if not isinstance(examples, list):
        raise invalid_argument(f"JSON Value: {echo(document)} Expecting 'examples' value to be an list/array")
    if not examples:
        raise invalid_argument(f"JSON Value: {echo(document)} 'examples' value is an empty array")
    serialized = np.empty(len(examples), dtype=object)
    for index, example in enumerate(examples):
        serialized[index] = context + _example(example)
    return serialized


def _example(value: Any) -> bytes:
    if not isinstance(value, dict):
        raise invalid_argument(f"Example must be JSON object but got JSON {type_name(value)}")
    # Of a feature that is there twice the last one counts, yet the first one may be what is wrong.
    features = {c_string(name): _feature(c_string(name), content) for name, content in value.items()}
    entries = b"".join(
        _field(1, _field(1, name.encode("utf-8", "surrogateescape")) + _field(2, feature))
        for name, feature in features.items()
    )
    return _field(1, entries)


def _feature(name: str, content: Any) -> bytes:
    """One tf.Feature; an empty list is a feature without a kind, which is valid and means "missing"."""
    kind: int | None = None
    values: list[Any] = []
    for element in content if isinstance(content, list) else [content]:
        element_kind = _kind(name, element)
        if kind not in (None, element_kind):
            raise invalid_argument(
                f"Unexpected element type in feature: {name} expecting type: {_KIND_NAMES[kind]}"
            )
        if element_kind == _INT64 and element > 2**63 - 1:
            raise invalid_argument(f"Feature: {name} has uint64_t element. Only int64_t is supported.")
        kind = element_kind
        values.append(_bytes(element) if kind == _BYTES else element)
    if kind is None:
        return b""
    if kind == _BYTES:
        packed = b"".join(_field(1, value) for value in values)
    elif kind == _FLOAT:
        with np.errstate(over="ignore"):  # too big for float32 is infinity, as everywhere
            packed = _field(1, np.array(values).astype("<f4").tobytes())
    else:
        packed = _field(1, b"".join(varint(value % 2**64) for value in values))
    return _field(kind, packed)


def _kind(name: str, element: Any) -> int:
    if isinstance(element, int):  # true and false are 1 and 0
        return _INT64
    if isinstance(element, float):
        return _FLOAT
    if isinstance(element, str) or (isinstance(element, dict) and is_base64(element)):
        return _BYTES
    raise invalid_argument(f"Feature: {name} has element with unexpected JSON type: {type_name(element)}")


def _bytes(element: str | dict[str, Any]) -> bytes:
    return element.encode("utf-8", "surrogateescape") if isinstance(element, str) else from_base64(element)


def _field(number: int, payload: bytes) -> bytes:
    """A length-delimited field."""
    return struct.pack("B", number << 3 | 2) + varint(len(payload)) + payload


def varint(value: int) -> bytes:
    """A whole number as protobuf writes it."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
