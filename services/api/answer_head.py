"""Reads the head of a plain HTTP/1.1 answer without a parser: model servers send the same few lines each time.

What is not plain is left to a real parser, so nothing is guessed here: chunks, several lengths, ``Connection: close``,
answers without a body, folded lines, line ends by LF alone.
"""

from __future__ import annotations

import re
from typing import NamedTuple

Headers = list[tuple[bytes, bytes]]

_TOKEN = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110, 5.6.2
_MOST_NAMES = 500
_WITHOUT_BODY = (204, 304)
_KEPT = 128
_lately: dict[bytes, Head] = {}  # within one second a server's heads differ by the length alone, if at all
_names: dict[bytes, bytes] = {}  # as sent -> lower case, of names that are tokens


class Head(NamedTuple):
    """``start``: where the body begins; ``size``: its bytes. ``headers`` are shared and not to be changed."""

    status: int
    headers: Headers
    start: int
    size: int


def plain_head(data: bytes) -> Head | None:
    """The head at the beginning of ``data``; None if it is not there as a whole, or not plain."""
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return None
    text = data[:end]
    known = _lately.get(text)
    if known is None:
        known = _read(text)
        if known is not None:
            if len(_lately) >= _KEPT:
                _lately.clear()
            _lately[text] = known
    return known


def _read(text: bytes) -> Head | None:
    if text[:9] != b"HTTP/1.1 " or text[12:13] not in (b" ", b"\r"):
        return None
    digits = text[9:12]
    lines = text[:-4].split(b"\r\n")
    ends = len(lines) + 1
    if not digits.isdigit() or text.count(b"\r") != ends or text.count(b"\n") != ends or b"\0" in text:
        return None
    status = int(digits)
    if status < 200 or status in _WITHOUT_BODY:
        return None
    headers: Headers = []
    size = -1
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        known = _names.get(name) or _lower(name)
        if known is None or not colon:
            return None
        value = value.strip(b" \t")
        if known == b"content-length":
            if size >= 0 or not value.isdigit() or len(value) > 15:
                return None
            size = int(value)
        elif known == b"transfer-encoding" or (known == b"connection" and value.lower() != b"keep-alive"):
            return None
        headers.append((known, value))
    return Head(status, headers, len(text), size) if size >= 0 else None


def _lower(name: bytes) -> bytes | None:
    if _TOKEN.fullmatch(name) is None:
        return None
    lower = name.lower()
    if len(_names) < _MOST_NAMES:
        _names[name] = lower
    return lower
