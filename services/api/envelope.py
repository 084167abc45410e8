"""Opens a predict request without reading its numbers.

A body is an envelope (model, version, label, signature_name) around one large value. Parsing that value costs more than
the prediction (a 28x28 image is 900 lists), and the model server parses it anyway. So the value is cut out as bytes.

Where it ends is known without a parser when it holds no quotation mark: then no key can follow within it, and the
last bracket before the next key, or before the object's end, is its own. Values with text in them (image files, words)
are left to the parser, which is fast on text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import orjson

_OPENING = re.compile(rb'"(instances|inputs)"\s*:\s*(?=\[)')
SMALLEST = 2048  # bytes; below, parsing costs less than looking
_LONGEST_ENVELOPE = 16 * 1024


@dataclass(frozen=True, slots=True)
class Envelope:
    """``fields`` are the members but the large one; ``value`` is that one's text, as it came."""

    fields: dict[str, Any]
    key: str
    value: bytes


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
    if end == 0 or len(raw) - end > _LONGEST_ENVELOPE:
        return None
    # what is left must be an object by itself, in which the value's place is marked by null
    try:
        fields = orjson.loads(raw[:start] + b"null" + raw[end:])
    except orjson.JSONDecodeError:
        return None
    key = found.group(1).decode("ascii")
    # not null: the match lay in a text or below another key
    if not isinstance(fields, dict) or key not in fields or fields.pop(key) is not None:
        return None
    if raw.count(b"{", start, end) or "instances" in fields or "inputs" in fields:
        return None
    return Envelope(fields, key, raw[start:end])


def body_for(envelope: Envelope, signature_name: str | None) -> bytes:
    """The model server's request: the value, with the signature's name in front."""
    head = b"{" if signature_name is None else b'{"signature_name":' + orjson.dumps(signature_name) + b","
    return b'%s"%s":%s}' % (head, envelope.key.encode("ascii"), envelope.value)
