"""TensorProto messages to arrays and back, all types that TensorFlow can hold in plain memory.

Duck-typed on purpose: the message classes come with TensorFlow, and this module doesn't need them.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from services.serving.examples import varint
from services.serving.signature import Array, numpy_type

# DataType number -> its C++ name and the repeated field that holds its values.
_FIELDS: dict[int, tuple[str, str]] = {
    1: ("float", "float_val"),
    2: ("double", "double_val"),
    3: ("int32", "int_val"),
    4: ("uint8", "int_val"),
    5: ("int16", "int_val"),
    6: ("int8", "int_val"),
    7: ("string", "string_val"),
    8: ("complex64", "scomplex_val"),
    9: ("int64", "int64_val"),
    10: ("bool", "bool_val"),
    14: ("bfloat16", "half_val"),
    17: ("uint16", "int_val"),
    18: ("complex128", "dcomplex_val"),
    19: ("half", "half_val"),
    22: ("uint32", "uint32_val"),
    23: ("uint64", "uint64_val"),
}
# Types whose packed form in a message is that of memory: their fields' numbers.
_PACKED = {"float": 5, "double": 6, "complex64": 9, "bool": 11, "complex128": 12}
_NUMBERS = {name: number for number, (name, _) in _FIELDS.items()}
# One value may stand for a whole tensor, so a few bytes can ask for any amount of memory: refuse what no message
# could have held in full.
_MOST_BYTES = 2**31


def to_array(proto: Any) -> tuple[str, Array]:
    """A TensorProto's type (its C++ name) and values.

    Raises:
        ValueError: the message makes no tensor.
    """
    known = _FIELDS.get(proto.dtype)
    if known is None:
        raise ValueError(f"type {proto.dtype} is not supported")
    name, field = known
    dtype = numpy_type(name)
    assert dtype is not None  # noqa: S101 - every type of the table has one
    shape = tuple(dim.size for dim in proto.tensor_shape.dim)
    if any(size < 0 for size in shape):  # of an unknown rank the sizes that are there count, if any
        raise ValueError("its shape is not fully known")
    count = math.prod(shape)
    if count * dtype.itemsize > _MOST_BYTES:
        raise ValueError("it is too large")
    if proto.tensor_content and count:
        if name == "string":
            flat = _texts(proto.tensor_content, count)
        else:
            # A copy: the graph may keep the array, the message's memory goes.
            flat = np.frombuffer(proto.tensor_content, dtype).copy()
        if flat.size != count:
            raise ValueError(f"{flat.size} values for {count} places")
    else:
        flat = _filled(_values(getattr(proto, field), name, dtype), count, dtype)
    return name, flat.reshape(shape)


def _values(values: Any, name: str, dtype: np.dtype[Any]) -> Array:
    if name == "string":
        texts = np.empty(len(values), dtype=object)
        texts[:] = list(values)
        return texts
    if name in ("half", "bfloat16"):
        return np.array(values, np.int64).astype(np.uint16).view(dtype)
    if name.startswith("complex"):
        parts = np.array(values, np.float32 if name == "complex64" else np.float64)
        return parts[: parts.size // 2 * 2].view(dtype)
    if name in ("int8", "int16", "uint8", "uint16"):
        return np.array(values, np.int64).astype(dtype)
    return np.array(values, dtype)


def _filled(values: Array, count: int, dtype: np.dtype[Any]) -> Array:
    """The last value repeats up to ``count``; no value at all means zeros, and what is too much is left out."""
    if values.size >= count:
        return values[:count]
    last = values[-1] if values.size else (b"" if dtype == np.dtype(object) else np.zeros((), dtype)[()])
    whole = np.empty(count, dtype)
    whole[: values.size] = values
    whole[values.size :] = last
    return whole


def _texts(content: bytes, count: int) -> Array:
    """Texts as TensorFlow packs them: all lengths as varints, then all bytes."""
    lengths: list[int] = []
    at = 0
    while len(lengths) < count:
        length = shift = 0
        while True:
            if at >= len(content) or shift > 63:
                raise ValueError("its content ends early")
            byte = content[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        lengths.append(length)
    if at + sum(lengths) != len(content):
        raise ValueError("its content has another length than its texts")
    texts = np.empty(count, dtype=object)
    for index, length in enumerate(lengths):
        texts[index] = content[at : at + length]
        at += length
    return texts


def fill_proto(proto: Any, array: Array, *, as_content: bool = False) -> None:
    """Write ``array`` into an empty TensorProto: typed values, or one block of bytes.

    Raises:
        ValueError: for types that have no message form.
    """
    name = type_of(array)
    number = _NUMBERS.get(name)
    if number is None:
        raise ValueError(f"type {name} is not supported")
    proto.dtype = number
    proto.tensor_shape.SetInParent()
    for size in array.shape:
        proto.tensor_shape.dim.add(size=size)
    flat = np.ascontiguousarray(array).ravel()
    values = getattr(proto, _FIELDS[number][1])
    if name == "string":
        values.extend(
            value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogateescape")
            for value in flat.tolist()
        )
    elif as_content:
        proto.tensor_content = flat.tobytes()
    elif name in _PACKED:
        # As bytes of the message: a hundred times faster than number by number.
        if flat.size:
            raw = flat.tobytes()
            proto.MergeFromString(varint(_PACKED[name] << 3 | 2) + varint(len(raw)) + raw)
    elif name in ("half", "bfloat16"):
        values.extend(flat.view(np.uint16).tolist())
    else:
        values.extend(flat.tolist())


def type_of(array: Array) -> str:
    """The C++ name of an array's type: float, half, string, ..."""
    if array.dtype.kind in "OSU":
        return "string"
    return {"float32": "float", "float64": "double", "float16": "half"}.get(
        array.dtype.name, array.dtype.name
    )
