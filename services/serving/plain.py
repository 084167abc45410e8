"""The commonest predict body, read fast: nothing but a regular block of numbers for the one input.

The compiled module ``_blocks`` reads it in one pass, where there was a compiler when Modelyard was installed. Without
it, simdjson reads the numbers into a flat buffer, with no Python object for each, and what a flat buffer loses, the
nesting, is checked by comparing the body's brackets and commas with those that the shape must have. Whatever is not
exactly that (NaN, other shapes, several inputs, twin keys, errors of any kind) is left to the ordinary reader and its
messages.
"""

from __future__ import annotations

import math
import re
import threading
from functools import lru_cache
from typing import Any

import numpy as np
import simdjson

from services.serving.decode import Format
from services.serving.signature import DEFAULT_SIGNATURE, Array, Signature, TensorSpec

try:
    from services.serving import _blocks
except ImportError:  # not compiled, see setup.py
    _blocks = None  # type: ignore[assignment]

# What numbers and white space are made of. Without these a body's skeleton remains; keys lose their "e" as well.
_DROPPED = b"0123456789.+-eE \t\n\r"
_KEYS = {b'"instancs":': ("instances", Format.ROW), b'"inputs":': ("inputs", Format.COLUMNAR)}
_LONGEST_HEAD = 200  # bytes of skeleton before the block; a signature's name may be there
_local = threading.local()
_S = rb"[ \t\n\r]*"
_NAME = rb'"signature_name"%b:%b"(?:%b)?"' % (_S, _S, DEFAULT_SIGNATURE.encode())
_BEFORE = re.compile(rb'%b\{%b(%b%b,%b)?"(instances|inputs)"%b:%b' % (_S, _S, _NAME, _S, _S, _S, _S))
_AFTER = re.compile(rb"%b(,%b%b%b)?\}%b" % (_S, _S, _NAME, _S, _S))
_LAYOUTS = {b"instances": Format.ROW, b"inputs": Format.COLUMNAR}


def compiled() -> bool:
    """Whether the compiled reader is here."""
    return _blocks is not None


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
    found = None if _blocks is None else _read_compiled(body, spec.shape[1:])
    return found or _read_flat(body, spec.shape[1:])


def _read_compiled(body: bytes, row: tuple[int, ...]) -> tuple[Format, Array] | None:
    before = _BEFORE.match(body)
    if before is None:
        return None
    block = _blocks.read_block(body, before.end(), row)
    if block is None:
        return None
    rows, end, values = block
    after = _AFTER.fullmatch(body, end)
    if after is None or (before[1] and after[1]):
        return None
    return _LAYOUTS[before[2]], np.frombuffer(values, np.float32).reshape(rows, *row)


def _read_flat(body: bytes, row: tuple[int, ...]) -> tuple[Format, Array] | None:
    skeleton = body.translate(None, _DROPPED)
    start, end = skeleton.find(b"["), skeleton.rfind(b"]") + 1
    if not 0 < start <= _LONGEST_HEAD:
        return None
    inner = _skeleton(row)
    rows, rest = divmod(end - start - 1, len(inner) + 1)
    if rest or rows < 1 or not skeleton.startswith(_block(inner, rows), start):
        return None
    head = skeleton[:start]
    kind = _KEYS.get(head[head.rfind(b",") + 1 :].lstrip(b"{"))
    if kind is None or b"\\" in head:
        return None
    key, layout = kind
    alone = start == len(key) + (4 if key == "inputs" else 3) and len(skeleton) == end + 1
    values = _values(body, key, rows * math.prod(row), alone=alone)
    return None if values is None else (layout, values.reshape(rows, *row))


def _values(body: bytes, key: str, count: int, *, alone: bool) -> Array | None:
    """The ``count`` numbers below ``key``; ``alone``: there is no other key."""
    parser = getattr(_local, "parser", None) or simdjson.Parser()
    _local.parser = None  # a parser can't be used again while anything of its document is alive
    try:
        document: Any = parser.parse(body)
        if not alone and not _names_default(document, list(document.keys()), key):
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
    if names == [key]:
        return True
    default = sorted(names) == sorted((key, "signature_name"))
    return default and document["signature_name"] in ("", DEFAULT_SIGNATURE)


@lru_cache(maxsize=16)
def _block(inner: bytes, rows: int) -> bytes:
    return b"[" + b",".join([inner] * rows) + b"]"


@lru_cache(maxsize=64)
def _skeleton(shape: tuple[int, ...]) -> bytes:
    """Brackets and commas of a nested list of ``shape``; nothing for one number."""
    inner = b""
    for size in reversed(shape):
        inner = b"[" + b",".join([inner] * size) + b"]"
    return inner
