"""Predict requests to arrays: TensorFlow Serving's row (``instances``) and columnar (``inputs``) formats.

Two ways through the same rules. The ordinary one checks and flattens a nested list one level at a time with
C-speed built-ins. When it meets anything unusual, ``_explain`` walks the value the way TensorFlow Serving does,
element by element, to give the same error for the same element.

The shape is *not* checked against the signature: TensorFlow Serving doesn't either, and models rely on it
(its README feeds shape [3] to an input that declares [-1, 1]).
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from itertools import chain
from typing import Any

import numpy as np

from services.serving.errors import Code, ServingError, invalid_argument
from services.serving.json_echo import echo, type_name
from services.serving.signature import NUMPY_TYPES, Array, Signature, TensorSpec, numpy_type

_MAX_RANK = 64  # numpy's limit; TensorFlow's is 254
# What a leaf may be, per type. JSON's 1 is a Python int and 1.0 a float, and bool is neither (types are compared).
_NUMBERS = frozenset({int, float})
_INTEGERS = frozenset({int})
_NOTHING: frozenset[type] = frozenset()
_LEAVES: Mapping[str, frozenset[type]] = {
    "float": _NUMBERS,
    "double": _NUMBERS,
    "bool": frozenset({bool}),
    "string": frozenset({str, dict}),
} | {name: _INTEGERS for name in NUMPY_TYPES if "int" in name}
# The small types take anything that fits int32 and wrap round: 300 as uint8 is 44. So does TensorFlow Serving.
_RANGES: Mapping[str, tuple[int, int]] = {
    "int8": (-(2**31), 2**31 - 1),
    "int16": (-(2**31), 2**31 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "uint8": (-(2**31), 2**31 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "uint32": (0, 2**32 - 1),
    "uint64": (0, 2**64 - 1),
}


_NO_SPACE = dict.fromkeys(map(ord, " \t\n\v\f\r"))


class Format(Enum):
    """How a request was laid out, and so how its answer is."""

    ROW = "row"
    COLUMNAR = "columnar"


@dataclass(frozen=True)
class PredictInputs:
    """One array per input alias of the signature."""

    format: Format
    arrays: Mapping[str, Array]


def require_object(document: Any) -> dict[str, Any]:
    """The document, which must be an object at its top level."""
    if not isinstance(document, dict):
        raise invalid_argument(f"JSON Value: {echo(document)} Is not object")
    return document


def signature_name(document: dict[str, Any]) -> str:
    """The asked signature's name; empty for the default one.

    Raises:
        ServingError: INVALID_ARGUMENT if it is no text.
    """
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise invalid_argument(
            f"JSON Value: {echo(document)} not formatted correctly."
            " 'signature_name' key must be a string value."
        )
    return name


def decode_predict(document: dict[str, Any], signature: Signature, asked_name: str) -> PredictInputs:
    """Turn the body of a predict request into arrays of the signature's types, of any shape.

    ``asked_name`` is the signature name as the client wrote it (messages say ``DEFAULT`` for none).

    Raises:
        ServingError: INVALID_ARGUMENT; UNIMPLEMENTED for types that JSON can't carry, in columnar format only.
    """
    if not signature.inputs:
        raise invalid_argument(f"Failed to get input map for signature: {asked_name or 'DEFAULT'}")
    if "instances" in document:
        if "inputs" in document:
            raise invalid_argument(
                f"JSON Value: {echo(document)} Not formatted correctly expecting only"
                " one of 'inputs' or 'instances' keys to exist "
            )
        instances = document["instances"]
        if not isinstance(instances, list):
            raise invalid_argument(f"JSON Value: {echo(document)} Expecting 'instances' to be an list/array")
        if not instances:
            raise invalid_argument(f"JSON Value: {echo(document)} No values in 'instances' array")
        return PredictInputs(Format.ROW, _rows(instances, signature.inputs))
    if "inputs" in document:
        return PredictInputs(Format.COLUMNAR, _columns(document["inputs"], signature.inputs))
    raise invalid_argument("Missing 'inputs' or 'instances' key")


def _rows(instances: list[Any], inputs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    if not isinstance(instances[0], dict) and len(inputs) > 1:
        raise invalid_argument(
            "instances is a plain list, but expecting list of objects as multiple input tensors required as"
            " per tensorinfo_map"
        )
    if not _is_named(instances[0]):
        alias, spec = next(iter(inputs.items()))
        array = _fast(instances, spec.dtype)
        if array is None:
            _explain_rows(instances, inputs, named=False)
            array = _slow(instances, spec.dtype)
        return {alias: array}
    arrays: dict[str, Array] = {}
    keys = inputs.keys()
    if all(type(row) is dict and row.keys() == keys for row in instances):
        for alias, spec in inputs.items():
            array = _fast([row[alias] for row in instances], spec.dtype)
            if array is None:
                break
            arrays[alias] = array
    if len(arrays) != len(inputs):
        _explain_rows(instances, inputs, named=True)
        arrays = {alias: _slow(_column(instances, alias), spec.dtype) for alias, spec in inputs.items()}
    return arrays


def _column(instances: list[dict[str, Any]], alias: str) -> list[Any]:
    """One input's value of each row. Where rows have it twice, TensorFlow Serving takes as many values as there are
    rows, from the front."""
    values = [value for row in instances for key, value in row.items() if c_string(key) == alias]
    return values[: len(instances)]


def c_string(key: str) -> str:
    """A member's name as C++ sees it where it asks for no length: up to the first NUL."""
    return key.partition("\0")[0]


def _columns(value: Any, inputs: Mapping[str, TensorSpec]) -> dict[str, Array]:
    if not _is_named(value):
        if len(inputs) > 1:
            raise invalid_argument(
                "inputs is a plain value/list, but expecting an object as multiple input tensors required as"
                " per tensorinfo_map"
            )
        value = {next(iter(inputs)): value}
    arrays: dict[str, Array] = {}
    for alias, spec in inputs.items():
        if alias not in value:
            raise invalid_argument(f"Missing named input: {alias} in 'inputs' object.")
        array = _fast(value[alias], spec.dtype)
        if array is None:
            _explain(value[alias], spec.dtype)
            array = _slow(value[alias], spec.dtype)
        arrays[alias] = array
    return arrays


def _is_named(value: Any) -> bool:
    """An object of named inputs, as opposed to a lone ``{"b64": ...}``, which is a value."""
    return isinstance(value, dict) and not is_base64(value)


def is_base64(value: dict[str, Any]) -> bool:
    """Whether an object is a bytes value: ``b64`` and nothing else, holding text."""
    return len(value) == 1 and isinstance(value.get("b64"), str)


def _fast(value: Any, dtype: str) -> Array | None:
    """``value`` as an array, or None when a closer look is due (wrong types, ragged lists, ...)."""
    allowed = _LEAVES.get(dtype, _NOTHING)
    shape: list[int] = []
    flat = [value]
    while flat and type(flat[0]) is list:
        sizes = set(map(len, flat)) if set(map(type, flat)) == {list} else ()
        if len(sizes) != 1 or len(shape) == _MAX_RANK:
            return None
        shape.extend(sizes)
        flat = list(chain.from_iterable(flat))
    if not allowed.issuperset(map(type, flat)):
        return None
    if allowed is _NOTHING:  # JSON has no value for it, yet lists without any can be
        kind = numpy_type(dtype)
        return None if kind is None else np.empty(shape, kind)
    if dtype == "string":
        return _strings(flat, shape)
    if dtype in _RANGES:
        low, high = _RANGES[dtype]
        if flat and not (low <= min(flat) and max(flat) <= high):
            return None
        wide = np.array(flat, dtype=np.uint64 if dtype == "uint64" else np.int64)
        return wide.astype(NUMPY_TYPES[dtype]).reshape(shape)
    # Beyond float32 is infinity, by contract; numpy would warn.
    with np.errstate(over="ignore"):
        return np.array(flat, dtype=NUMPY_TYPES[dtype]).reshape(shape)


def _strings(flat: list[Any], shape: list[int]) -> Array | None:
    decoded = np.empty(len(flat), dtype=object)
    try:
        for index, leaf in enumerate(flat):
            decoded[index] = (
                leaf.encode("utf-8", "surrogateescape") if type(leaf) is str else from_base64(leaf)
            )
    except ServingError:
        return None
    return decoded.reshape(shape)


def from_base64(value: Any) -> bytes:
    """The bytes of ``{"b64": "<standard base64>"}``.

    Raises:
        ServingError: INVALID_ARGUMENT for another form, or another alphabet.
    """
    if not is_base64(value):
        raise invalid_argument(f"JSON Value: {echo(value)} not formatted correctly for base64 data")
    # As absl's decoder: ASCII's white space is allowed, padding (also by dots) is missing altogether or complete.
    padded = value["b64"].translate(_NO_SPACE)
    text = padded.rstrip("=.")
    missing = -len(text) % 4
    try:
        if len(padded) - len(text) not in (0, missing):
            raise binascii.Error
        return base64.b64decode(text + "=" * missing, validate=True)
    except (binascii.Error, ValueError):
        raise invalid_argument("Unable to base64 decode") from None


def _slow(value: Any, dtype: str) -> Array:
    """The array of a value in which ``_explain`` found no fault, yet ``_fast`` did: too many dimensions."""
    array = _fast(value, dtype)
    if array is None:
        raise invalid_argument(f"Tensors of more than {_MAX_RANK} dimensions are not supported")
    return array


def _explain_rows(instances: list[Any], inputs: Mapping[str, TensorSpec], *, named: bool) -> None:
    """Raise what is wrong with the first wrong element of ``instances``; return if nothing is."""
    first: dict[str, tuple[int, list[int]]] = {}
    only = next(iter(inputs))
    for index, row in enumerate(instances):
        if named != _is_named(row):
            raise invalid_argument(
                f"Expecting object but got list at item {index} of input list"
                if named
                else f"Expecting value/list but got object at item {index} of input list"
            )
        names = {c_string(key) for key in row} if named else {only}
        for name, value in row.items() if named else ((only, row),):
            alias = c_string(name)
            key = f" key: {alias}" if named else ""
            try:
                if alias not in inputs:
                    raise invalid_argument(f"JSON object: does not have named input: {alias}")
                _agree(first.setdefault(alias, found := _explain(value, inputs[alias].dtype)), found)
            except ServingError as error:
                raise invalid_argument(
                    f"Failed to process element: {index}{key} of 'instances' list. Error: {error}"
                ) from None
        if named and names != inputs.keys():
            raise invalid_argument(
                f"Failed to process element: {index} of 'instances' list. JSON object: {echo(row)}"
                f" keys must be equal to: {','.join(sorted(inputs))}"
            )


def _agree(first: tuple[int, list[int]], found: tuple[int, list[int]]) -> None:
    if first[0] != found[0]:
        raise invalid_argument(f"Expecting tensor size: {first[0]} but got: {found[0]}")
    if first[1] != found[1]:
        raise invalid_argument(f"Expecting shape {_shape(first[1])} but got: {_shape(found[1])}")


def _shape(shape: list[int]) -> str:
    return f"[{','.join(map(str, shape))}]"


def _explain(value: Any, dtype: str) -> tuple[int, list[int]]:
    """Walk ``value`` in TensorFlow Serving's order.

    Returns:
        The number of leaves, and the shape given by the first element of each level.

    Raises:
        ServingError: for the first leaf or list that doesn't fit.
    """
    shape: list[int] = []
    probe = value
    while isinstance(probe, list):
        shape.append(len(probe))
        if not probe:
            break
        probe = probe[0]
    rank, count = len(shape), 0
    stack: list[Iterator[Any]] = [iter((value,))]
    while stack:
        for item in stack[-1]:
            level = len(stack) - 1
            if isinstance(item, list):
                if level >= rank:
                    raise invalid_argument(f"Encountered list at unexpected level: {level} expected < {rank}")
                if len(item) != shape[level]:
                    raise invalid_argument(
                        f"Encountered list at unexpected size: {len(item)} at level: {level}"
                        f" expected size: {shape[level]}"
                    )
                stack.append(iter(item))
                break
            if level != rank:
                raise invalid_argument(
                    f"JSON Value: {echo(item)} found at incorrect level: {level + 1}"
                    f" in the JSON DOM. Expected at level: {rank}"
                )
            _check_leaf(item, dtype)
            count += 1
        else:
            stack.pop()
    return count, shape


def _check_leaf(leaf: Any, dtype: str) -> None:
    allowed = _LEAVES.get(dtype)
    if isinstance(leaf, dict):
        if dtype == "string":
            from_base64(leaf)
            return
    elif allowed is None:
        raise ServingError(Code.UNIMPLEMENTED, f"Conversion of JSON Value: {echo(leaf)} to type: {dtype}")
    elif type(leaf) in allowed:
        low, high = _RANGES.get(dtype, (leaf, leaf))
        if not (dtype in _RANGES and not low <= leaf <= high):
            return
    raise invalid_argument(
        f"JSON Value: {echo(leaf)} Type: {type_name(leaf)} is not of expected type: {dtype}"
    )
