"""Tensors as the bytes of a NumPy file (``application/x-npy``), in and out: no text is made or read.

https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

from services.serving.errors import invalid_argument
from services.serving.signature import Array, Signature, numpy_type

NPY = b"application/x-npy"
_MAGIC = b"\x93NUMPY"
_LONGEST_HEADER = 4096  # a plain array's has 118 bytes
_NAMES = frozenset({"signature_name", "input"})


def parameters(query: str) -> dict[str, str]:
    """``signature_name`` and ``input`` (the alias; needed where there are several) from a URL's query.

    Raises:
        ServingError: INVALID_ARGUMENT: others, or one twice.
    """
    pairs = parse_qsl(query, keep_blank_values=True)
    found = dict(pairs)
    unknown = sorted(set(found) - _NAMES)
    if unknown or len(found) != len(pairs):
        raise invalid_argument(f"Unknown or repeated parameter: {(unknown or sorted(found))[0]}")
    return found


def read_npy(body: bytes) -> Array:
    """The array of a NumPy file's bytes; it shares their memory, and can't be written to.

    Raises:
        ServingError: INVALID_ARGUMENT: it is none, or one of objects, texts or records.
    """
    if body[:6] != _MAGIC or len(body) < 12:
        raise invalid_argument(
            "NPY error: the body is not a NumPy file; write it with numpy.save(file, array)"
        )
    size, start = (
        (int.from_bytes(body[8:10], "little"), 10)
        if body[6] == 1
        else (int.from_bytes(body[8:12], "little"), 12)
    )
    if size > _LONGEST_HEADER:
        raise invalid_argument("NPY error: its header is too long")
    end = start + size
    shape, in_columns, dtype = _header(body[:end])
    count = math.prod(shape)
    if len(body) - end != count * dtype.itemsize:
        raise invalid_argument(
            f"NPY error: {len(body) - end} bytes of data for {count} values of {dtype.itemsize} bytes"
        )
    flat = np.frombuffer(body, dtype, count, end)
    array = flat.reshape(shape, order="F" if in_columns else "C")
    return array if dtype.isnative else array.astype(dtype.newbyteorder("="))


@lru_cache(maxsize=256)
def _header(head: bytes) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    file = io.BytesIO(head)
    try:
        version = np.lib.format.read_magic(file)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(
            version
        )
        if read is None:
            raise ValueError(f"version {version} is not supported")
        shape, in_columns, dtype = read(file)
    except (ValueError, TypeError, SyntaxError, EOFError) as error:
        raise invalid_argument(f"NPY error: {str(error)[:200]}") from None
    if dtype.kind not in "biufc" or any(size < 0 for size in shape):
        raise invalid_argument(f"NPY error: arrays of {dtype} can't be sent; numbers and booleans can")
    return shape, in_columns, dtype


def as_inputs(array: Array, signature: Signature, alias: str | None) -> dict[str, Array]:
    """``array`` as the signature's input ``alias`` (or its only one), in that input's type.

    Whole numbers become floats where floats are wanted, and other whole numbers if they fit; floats never become whole,
    and booleans stay what they are: as with JSON.

    Raises:
        ServingError: INVALID_ARGUMENT: there is no such input, or its type is another one.
    """
    if alias is None:
        if len(signature.inputs) != 1:
            names = ", ".join(signature.inputs)
            raise invalid_argument(
                f"The signature has {len(signature.inputs)} inputs; name one with ?input=: {names}"
            )
        alias = next(iter(signature.inputs))
    if alias not in signature.inputs:
        raise invalid_argument(f"The signature has no input {alias}; it has {', '.join(signature.inputs)}")
    wanted = signature.inputs[alias].dtype
    dtype = numpy_type(wanted)
    if dtype is None or not _turns_into(array, dtype):
        raise invalid_argument(f"Input {alias} is {wanted}; an array of {array.dtype} does not fit")
    with np.errstate(over="ignore"):
        return {alias: array.astype(dtype, copy=False)}


def _turns_into(array: Array, dtype: np.dtype[Any]) -> bool:
    if array.dtype == dtype:
        return True
    if array.dtype.kind in "iu" and dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return not array.size or (int(array.min()) >= limits.min and int(array.max()) <= limits.max)
    # "V" is bfloat16
    return (array.dtype.kind, dtype.kind) in {(a, b) for a in "iuf" for b in "fV"} | {("c", "c")}


def write_npy(outputs: Mapping[str, Array]) -> bytes:
    """The only output as a NumPy file.

    Raises:
        ServingError: INVALID_ARGUMENT: there are several, or it is text.
    """
    if len(outputs) != 1:
        raise invalid_argument(f"The signature has {len(outputs)} outputs; accept application/json instead")
    (array,) = outputs.values()
    if array.dtype.kind not in "biufc":
        raise invalid_argument(
            f"An output of {array.dtype} can't be a NumPy file; accept application/json instead"
        )
    return _head(array.dtype, array.shape) + array.tobytes()


@lru_cache(maxsize=256)
def _head(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    file = io.BytesIO()
    described = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)
    return file.getvalue()
