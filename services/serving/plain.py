"""The commonest predict body, read fast: nothing but a regular block of numbers for the one input.

simdjson reads it into a flat buffer without making a Python object per number. What a flat buffer loses, the nesting,
is checked by comparing the body's brackets and commas with those that the shape must have. Whatever is not exactly
that (NaN, other shapes, several inputs, twin keys, errors of any kind) is left to the ordinary reader and its messages.
"""

from __future__ import annotations

import math
import threading
from functools import lru_cache
from typing import Any

import numpy as np
import simdjson

from services.serving.decode import Format
from services.serving.signature import DEFAULT_SIGNATURE, Array, Signature, TensorSpec

# What numbers and white space are made of. Without these a body's skeleton remains; keys lose their "e" as well.
_DROPPED = b"0123456789.+-eE \t\n\r"
_KEYS = {b'"instancs":': ("instances", Format.ROW), b'"inputs":': ("inputs", Format.COLUMNAR)}
_LONGEST_HEAD = 200  # bytes of skeleton before the block; a signature's name may be there
_local = threading.local()


def block_of(signature: Signature) -> TensorSpec | None:
    """The one float input of known inner shape that makes a signature's requests readable here; None: it has none."""
    if signature.name != DEFAULT_SIGNATURE or len(signature.inputs) != 1:
        return None
    spec = next(iter(signature.inputs.values()))
    fits = spec.dtype == "float" and spec.shape and spec.shape[0] == -1 and all(n > 0 for n in spec.shape[1:])
    return spec if fits else None


def read_plain(body: bytes, spec: TensorSpec) -> tuple[Format, Array] | None:
    """The request's layout and its float32 values, of the shape that ``spec`` declares; None: read it otherwise."""
    assert spec.shape is not None  # noqa: S101 - block_of gives no other
    skeleton = body.translate(None, _DROPPED)
    start, end = skeleton.find(b"["), skeleton.rfind(b"]") + 1
    if not 0 < start <= _LONGEST_HEAD:
        return None
    row = _skeleton(spec.shape[1:])
    rows, rest = divmod(end - start - 1, len(row) + 1)
    if rest or rows < 1 or not _is_regular(skeleton, start, end, row, rows):
        return None
    head = skeleton[:start]
    kind = _KEYS.get(head[head.rfind(b",") + 1 :].lstrip(b"{"))
    if kind is None or b"\\" in head:
        return None
    key, layout = kind
    values = _values(body, key, rows * math.prod(spec.shape[1:]))
    return None if values is None else (layout, values.reshape(rows, *spec.shape[1:]))


def _values(body: bytes, key: str, count: int) -> Array | None:
    parser = getattr(_local, "parser", None) or simdjson.Parser()
    _local.parser = None  # a parser can't be used again while anything of its document is alive
    try:
        document: Any = parser.parse(body)
        names = list(document.keys())
        if names != [key] and not _names_default(document, names, key):
            return None
        buffer = document[key].as_buffer(of_type="d")
        with np.errstate(over="ignore"):
            values = np.frombuffer(buffer, np.float64).astype(np.float32)
    except (ValueError, TypeError, KeyError, RuntimeError, AttributeError, UnicodeDecodeError):
        return None
    del document, buffer
    _local.parser = parser
    return values if values.size == count else None


def _names_default(document: Any, names: list[str], key: str) -> bool:
    default = sorted(names) == sorted((key, "signature_name"))
    return default and document["signature_name"] in ("", DEFAULT_SIGNATURE)


def _is_regular(skeleton: bytes, start: int, end: int, row: bytes, rows: int) -> bool:
    return skeleton[start:end] == b"[" + b",".join([row] * rows) + b"]"


@lru_cache(maxsize=64)
def _skeleton(shape: tuple[int, ...]) -> bytes:
    """Brackets and commas of a nested list of ``shape``; nothing for one number."""
    inner = b""
    for size in reversed(shape):
        inner = b"[" + b",".join([inner] * size) + b"]"
    return inner
