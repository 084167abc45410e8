"""Arrays to predict answers, with TensorFlow Serving's number formatting and layout.

Text is assembled as ``str`` in which ``surrogateescape`` carries bytes that are not UTF-8, because string
outputs go out as they are, valid or not.
"""

from __future__ import annotations

import base64
import math
from array import array as array_of
from collections.abc import Mapping

import numpy as np

from services.serving.decode import Format
from services.serving.errors import invalid_argument
from services.serving.json_echo import quote
from services.serving.signature import Array

try:
    from services.serving import _texts
except ImportError:  # not compiled, see setup.py
    _texts = None  # type: ignore[assignment]

_FEW = 100
# What TensorFlow calls the types that can't be written.
_TF_NAMES = {"float16": "half"}


def encode_predict(outputs: Mapping[str, Array], layout: Format) -> bytes:
    """The body of a predict answer.

    Raises:
        ServingError: INVALID_ARGUMENT for types that JSON can't carry, and for outputs that have no common
            batch dimension when the answer is by rows.
    """
    if not outputs:
        raise invalid_argument("Cannot convert empty tensor map to JSON")
    text = _by_rows(outputs) if layout is Format.ROW else _by_columns(outputs)
    return text.encode("utf-8", "surrogateescape")


def _by_rows(outputs: Mapping[str, Array]) -> str:
    batch = -1
    for alias, array in outputs.items():
        if array.ndim == 0:
            raise invalid_argument(f"Tensor name: {alias} has no shape information ")
        if batch >= 0 and batch != array.shape[0]:
            raise invalid_argument(
                f"Tensor name: {alias} has inconsistent batch size: {array.shape[0]} expecting: {batch}"
            )
        batch = array.shape[0]
    columns = [_items(alias, array, array.ndim - 1) for alias, array in outputs.items()]
    if batch == 0:
        body = "[]"
    elif len(columns) == 1:
        body = f"[{', '.join(columns[0])}\n    ]"
    else:
        keys = [f"            {quote(alias)}: " for alias in outputs]
        rows = (
            ",\n".join(key + value for key, value in zip(keys, values, strict=True))
            for values in zip(*columns, strict=True)
        )
        body = "[\n" + ",\n".join(f"        {{\n{row}\n        }}" for row in rows) + "\n    ]"
    return f'{{\n    "predictions": {body}\n}}'


def _by_columns(outputs: Mapping[str, Array]) -> str:
    whole = [_items(alias, array, array.ndim)[0] for alias, array in outputs.items()]
    if len(whole) == 1:
        return f'{{\n    "outputs": {whole[0]}\n}}'
    members = (f"        {quote(alias)}: {text}" for alias, text in zip(outputs, whole, strict=True))
    return '{\n    "outputs": {\n' + ",\n".join(members) + "\n    }\n}"


def _items(alias: str, array: Array, depth: int) -> list[str]:
    """``array`` as JSON texts, with its last ``depth`` dimensions written as nested lists.

    So ``depth = array.ndim - 1`` gives one text per row, and ``depth = array.ndim`` one text in all.
    """
    written = 0  # dimensions
    if _texts is not None and depth and array.size and array.dtype == np.float32:
        texts, written = _texts.write_floats(np.ascontiguousarray(array), array.shape[-1]), 1
    else:
        texts = _leaves(alias, array)
    for axis in range(array.ndim - 1 - written, array.ndim - 1 - depth, -1):
        size = array.shape[axis]
        if size == 0:
            texts = ["[]"] * int(np.prod(array.shape[:axis], dtype=np.int64))
        else:
            texts = [f"[{', '.join(texts[at : at + size])}]" for at in range(0, len(texts), size)]
    return texts


# A number of 9 (17) digits that reads back as one of 6 has these beyond the sixth, or nearly: half a unit in the last
# place of a float32 (float64) is less than 60 (12) of the last digit.
_TAILS = {"f": ("060", "940"), "d": ("0" * 9 + "12", "9" * 9 + "88")}
_SMALLEST = {"f": 1.2e-38, "d": 2.3e-308}  # below, they have fewer digits


def _format_few(values: list[float], kind: str, exact: str) -> list[str]:
    """``format_floats`` for so few numbers that numpy's calls would cost more than the work."""
    low, high = _TAILS[kind]
    smallest = _SMALLEST[kind]
    texts = (f"{exact} " * len(values) % tuple(values)).split()
    for index, text in enumerate(texts):
        digits = text.partition("e")[0].replace(".", "").lstrip("-0")
        tail = digits[6:]
        if not low < tail < high or len(tail) != len(low) or "." not in text or abs(values[index]) < smallest:
            texts[index] = _format_one(values[index], kind, exact)
    return texts


def _format_one(value: float, kind: str, exact: str) -> str:
    text = f"{value:.6g}"
    if array_of(kind, (float(text),))[0] != value:
        text = "NaN" if math.isnan(value) else exact % value
    elif "n" in text:  # inf
        text = "Infinity" if value > 0 else "-Infinity"
    return text if "." in text or "e" in text or "n" in text or "N" in text else text + ".0"


def _leaves(alias: str, array: Array) -> list[str]:
    flat = array.ravel()
    if not flat.size:
        return []
    if array.dtype == np.float32:
        return format_floats(flat, "%.9g") if _texts is None else _texts.write_floats(flat, 0)
    if array.dtype == np.float64:
        return format_floats(flat, "%.17g")
    if array.dtype == np.bool_:
        return ["true" if value else "false" for value in flat.tolist()]
    # uint16 has no JSON form in TensorFlow Serving; the other integers have.
    if array.dtype.kind in "iu" and array.dtype != np.uint16:
        return [str(value) for value in flat.tolist()]
    if array.dtype.kind in "OSU":
        values = [value if isinstance(value, bytes) else str(value).encode() for value in flat.tolist()]
        if alias.endswith("_bytes"):
            return [f'{{"b64": "{base64.b64encode(value).decode()}"}}' for value in values]
        return [quote(value.decode("utf-8", "surrogateescape")) for value in values]
    name = _TF_NAMES.get(array.dtype.name, array.dtype.name)
    raise invalid_argument(f"Failed to write JSON value for tensor type: {name}")


def format_floats(flat: Array, exact: str) -> list[str]:
    """Each number with 6 digits if those read back as the same number, else in ``exact`` format.

    3 -> ``3.0``, 9000000 -> ``9e+06``, float32 1/3 -> ``0.333333343``. Non-finite ones are the bare tokens
    ``NaN``, ``Infinity``, ``-Infinity``.
    """
    values = flat.tolist()
    if not values:
        return []
    if len(values) <= _FEW:
        return _format_few(values, flat.dtype.char, exact)
    # One formatting call for all numbers, and a closer look at those that may be written otherwise.
    texts = (f"{exact} " * len(values) % tuple(values)).split()
    for index in np.flatnonzero(_unusual(flat)).tolist():
        texts[index] = _format_one(values[index], flat.dtype.char, exact)
    return texts


def _unusual(flat: Array) -> Array:
    """Which of the numbers may have a text of at most 6 digits, or no point in it; some more may be among them."""
    with np.errstate(all="ignore"):
        size = np.abs(flat.astype(np.float64))
        six = size * 10.0 ** (5.0 - np.floor(np.log10(size)))  # six digits before the point
        # half a unit in the last place of a float32 is below 0.06 here; a float64's is next to nothing
        near = np.abs(six - np.rint(six)) <= 0.07
        common: Array = (size > _SMALLEST["f"] * 2) & (size < 1e5) & ~near
    return ~common
