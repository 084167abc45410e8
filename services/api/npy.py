"""Tensors as the bytes of a NumPy file: a tenth of the work that JSON is, for arrays that are large."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import orjson

from services.api.body import checked, json_or_bare_nan
from services.api.errors import Malformed, UpstreamFailed
from services.api.questions import Question, checked_names
from shared.errors import InvalidInput
from shared.views import PredictRequest

NPY = "application/x-npy"
_NAMES = ("model", "version", "label", "signature_name", "input")


def binary_question(raw: bytes, named: Mapping[str, str], key: str | None) -> Question:
    """The question for a model server that takes the array as it is, and checks it.

    Raises:
        InvalidInput: a wrong name.
    """
    asked = _asked(named)
    beside = {name: named[name] for name in ("signature_name", "input") if name in named}
    question = checked_names(asked, asked.signature_name, lambda: (raw,), key)
    return question._replace(query=b"?" + urlencode(beside).encode("ascii")) if beside else question


def _asked(named: Mapping[str, str]) -> PredictRequest:
    unknown = sorted(set(named) - set(_NAMES))
    if unknown:
        raise InvalidInput(f"There is no parameter {unknown[0][:80]!r}.", field=unknown[0][:80])
    fields = {name: value for name, value in named.items() if name != "input"}
    return checked(PredictRequest.model_validate, {**fields, "inputs": 0})


def question_from_npy(raw: bytes, named: Mapping[str, str], key: str | None) -> Question:
    """The question in an array's bytes and the names in the query, as JSON: TensorFlow Serving takes nothing else.

    Raises:
        Malformed: not a NumPy file.
        InvalidInput: an array that no model takes, or a wrong name.
    """
    asked = _asked(named)
    array = _array(raw)
    value = orjson.dumps(array, option=orjson.OPT_SERIALIZE_NUMPY)
    if "input" in named:
        value = b"{%s:%s}" % (orjson.dumps(named["input"]), value)
    head = b"{"
    if asked.signature_name is not None:
        head += b'"signature_name":' + orjson.dumps(asked.signature_name) + b","
    return checked_names(asked, asked.signature_name, lambda: (b'%s"inputs":' % head, value, b"}"), key)


def _array(raw: bytes) -> Any:
    import numpy as np

    try:
        array = np.lib.format.read_array(io.BytesIO(raw), allow_pickle=False)
    except (ValueError, EOFError, TypeError, SyntaxError, MemoryError) as error:
        hint = "Write it with numpy.save(file, array)."
        raise Malformed(f"The body is not a NumPy file: {str(error)[:200]}", hint=hint) from None
    if array.dtype.kind not in "biuf":
        raise InvalidInput(
            f"Arrays of {array.dtype} can't be sent; numbers and booleans can.",
            field="body",
            hint="Convert it, for example array.astype('float32'); send text as JSON.",
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise InvalidInput(
            "The array holds NaN or infinity.", field="body", hint="Send it as JSON to /v1/models."
        )
    if array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8):
        array = array.astype(np.float32)  # half precision, long doubles: JSON has neither
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("="), copy=False)).reshape(array.shape)


def as_npy(content: bytes) -> bytes:
    """The model server's JSON answer as a NumPy file: float32, int64, or bool.

    Raises:
        InvalidInput: it holds several outputs, or text.
        UpstreamFailed: it is no answer at all.
    """
    import numpy as np

    try:
        answer = json_or_bare_nan(content)
    except Malformed:
        answer = None
    if not isinstance(answer, dict):
        raise UpstreamFailed("The model server's answer is not JSON.", hint="See the model server's log.")
    value = answer.get("outputs", answer.get("predictions"))
    try:
        array = np.asarray(value)
        if array.dtype.kind not in "biuf":
            raise ValueError(f"it is {array.dtype}")
    except ValueError as error:
        raise InvalidInput(
            f"The answer can't be one array: {error}",
            field="Accept",
            hint="Ask for application/json: the signature has several outputs, or text.",
        ) from None
    out = io.BytesIO()
    np.lib.format.write_array(out, array.astype(np.float32) if array.dtype.kind == "f" else array)
    return out.getvalue()
