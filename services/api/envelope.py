"""Opens a predict request without reading its numbers.

A body is an envelope (model, version, label, signature_name) around one large value. Parsing that value costs more than
the prediction (a 28x28 image is 900 lists), and the model server parses it anyway. So the value is cut out as bytes.

Where it ends is known without a parser when it holds no quotation mark: then no key can follow within it, and the
last bracket before the next key, or before the object's end, is its own. Values with text in them (image files, words)
are left to the parser, which is fast on text.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any, NamedTuple

import orjson

_OPENING = re.compile(rb'"(instances|inputs)"\s*:\s*(?=\[)')
SMALLEST = 2048  # bytes; below, parsing costs less than looking
# Callers write the same envelope around one value after the other: the last few are not read again.
KEPT, KEPT_BYTES = 256, 1024
TAIL = b"}"
_KEYS = {b"instances": "instances", b"inputs": "inputs"}
_LONGEST_ENVELOPE = 16 * 1024


class Envelope(NamedTuple):
    """``outside`` is the request with null in the large value's place; ``value`` is that one's text, as it came."""

    outside: bytes
    key: str
    value: memoryview

    @property
    def fields(self) -> dict[str, Any]:
        """The members but the large one."""
        return dict(_fields(self.outside, self.key) or {})


def open_envelope(raw: bytes) -> Envelope | None:
    """The parts of a request body, or None where it takes a parser to tell them apart.

    The value is not checked: the model server does that.
    """
    if len(raw) < SMALLEST:
        return None
    found = _OPENING.search(raw, 0, _LONGEST_ENVELOPE)
    if found is None:
        return None
    start = found.end()
    quote = raw.find(b'"', start)
    end = raw.rfind(b"]", start, quote if quote >= 0 else len(raw)) + 1
    if end == 0 or len(raw) - end > _LONGEST_ENVELOPE or raw.find(b"{", start, end) >= 0:
        return None
    # what is left must be an object by itself, in which the value's place is marked by null
    outside = raw[:start] + b"null" + raw[end:]
    key = _KEYS[found.group(1)]
    if (_fields_lately if len(outside) <= KEPT_BYTES else _fields)(outside, key) is None:
        return None
    return Envelope(outside, key, memoryview(raw)[start:end])


def _fields(outside: bytes, key: str) -> dict[str, Any] | None:
    try:
        fields = orjson.loads(outside)
    except orjson.JSONDecodeError:
        return None
    # not null: the match lay in a text or below another key
    if not isinstance(fields, dict) or key not in fields or fields.pop(key) is not None:
        return None
    return None if "instances" in fields or "inputs" in fields else fields


_fields_lately = lru_cache(maxsize=KEPT)(_fields)


def head_for(key: str, signature_name: str | None) -> bytes:
    """What stands before the value in a request for the model server; behind it stands ``TAIL``."""
    head = b"{" if signature_name is None else b'{"signature_name":' + orjson.dumps(signature_name) + b","
    return b'%s"%s":' % (head, key.encode("ascii"))
