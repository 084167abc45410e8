"""Request bodies to Python values, exactly as RapidJSON reads them for TensorFlow Serving.

The fast path is orjson. What it refuses, or would read otherwise, goes to a slower reader that is iterative
(500,000 levels of nesting are an answer, not a crash) and gives RapidJSON's own messages and offsets:
``NaN``, ``Infinity`` and ``Inf`` tokens, text after the document, bytes that are not UTF-8, a byte order mark,
and keys that occur twice (orjson keeps the last; see ``Twins``).

Values: ``int`` for a number without ``.`` or exponent that fits 64 bits, ``float`` for any other number, so
``1`` and ``1.0`` stay apart. Bytes that are not UTF-8 become lone surrogates (``surrogateescape``).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable
from typing import Any

import orjson

from services.serving.errors import ServingError, invalid_argument

_MARK = re.compile(rb"\xef?\xbb?\xbf?")
_SPACE = re.compile(rb"[ \t\n\r]*")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)")
_FRACTION = re.compile(rb"\.[0-9]+")
_EXPONENT = re.compile(rb"[eE][+-]?[0-9]+")
_PLAIN = re.compile(rb'[^"\\\x00-\x1f]*')
_HEX = re.compile(rb"[0-9a-fA-F]{4}")
_LITERALS: dict[int, tuple[bytes, Any]] = {
    ord("t"): (b"true", True),
    ord("f"): (b"false", False),
    ord("n"): (b"null", None),
}
_ESCAPES = {
    ord('"'): b'"',
    ord("\\"): b"\\",
    ord("/"): b"/",
    ord("b"): b"\b",
    ord("f"): b"\f",
    ord("n"): b"\n",
    ord("r"): b"\r",
    ord("t"): b"\t",
}


class Twins(dict[str, Any]):
    """An object that has a key more than once.

    By key it has the first value, as RapidJSON finds it; its length and ``items`` are those of all members, as
    RapidJSON counts and lists them. ``members``: of a first part, in which no key is there twice.
    """

    def __init__(self, members: Iterable[tuple[str, Any]]) -> None:
        self._members = list(members)
        super().__init__(self._members)

    def add(self, key: str, value: Any) -> None:
        """One more member, whose key may be there already."""
        self._members.append((key, value))
        self.setdefault(key, value)

    def __len__(self) -> int:
        return len(self._members)

    def items(self) -> Any:
        """All members in the order of the text."""
        return iter(self._members)


def read_json(body: bytes) -> Any:
    """Parse the first JSON document of ``body``.

    Raises:
        ServingError: INVALID_ARGUMENT, ``JSON Parse error: <reason> at offset: <bytes>``.
    """
    if not body:
        raise invalid_argument("JSON Parse error: The document is empty")
    try:
        document = orjson.loads(body)
    except orjson.JSONDecodeError:
        return _Reader(body).read()
    if _has_no_twins(body, document):
        return document
    return _Reader(body).read()


def _has_no_twins(body: bytes, document: Any) -> bool:
    """Whether no object of ``body`` has one key twice.

    Each key costs one colon, so equal counts prove it without a second parse. Text values with colons in
    them make the counts differ; then the standard library's parser is asked, which shows us every pair.
    """
    if body.count(b":") == _count_keys(document):
        return True
    try:
        json.loads(body, object_pairs_hook=_refuse_twins)
    except (_TwinKey, RecursionError, ValueError):
        return False
    return True


def _count_keys(document: Any) -> int:
    if not isinstance(document, dict):
        return -1
    count = len(document)
    for value in document.values():
        if isinstance(value, dict):
            count += len(value) + sum(len(inner) for inner in value.values() if type(inner) is dict)
        elif isinstance(value, list):
            for row in value:
                if type(row) is dict:
                    count += len(row) + sum(len(inner) for inner in row.values() if type(inner) is dict)
    return count


class _TwinKey(Exception):
    pass


def _refuse_twins(pairs: list[tuple[str, Any]]) -> None:
    if len(pairs) > 1 and len({key for key, _ in pairs}) != len(pairs):
        raise _TwinKey


def _is_too_big(text: bytes) -> bool:
    """Whether RapidJSON refuses a number beyond double. It does by the exponent alone: 2e308 is infinity to it."""
    mantissa, _, exponent = text.lower().partition(b"e")
    whole, _, fraction = mantissa.partition(b".")
    return math.isinf(float(whole)) or len(exponent) > 20 or int(exponent or b"0") > 308 + len(fraction)


class _Reader:
    """A pushdown reader with an explicit stack; one instance per document."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        # A byte order mark is skipped, yet counts in offsets; RapidJSON skips any part of one as well.
        match = _MARK.match(body)
        self._at = match.end() if match else 0

    def _fail(self, reason: str, at: int | None = None) -> ServingError:
        return invalid_argument(f"JSON Parse error: {reason} at offset: {self._at if at is None else at}")

    def _peek(self) -> int:
        """The next byte that is not white space; 0 at the end, as for a NUL byte."""
        match = _SPACE.match(self._body, self._at)
        self._at = match.end() if match else self._at
        return self._body[self._at] if self._at < len(self._body) else 0

    def read(self) -> Any:
        """The first document; what follows it is ignored."""
        if self._peek() in (0, *b"]},:"):
            raise self._fail("The document is empty.")
        stack: list[list[Any] | dict[str, Any]] = []
        keys: list[str] = []  # one per open object, innermost last
        while True:
            # Here a value is due.
            head = self._peek()
            if head == ord("["):
                self._at += 1
                value: Any = []
                if self._peek() != ord("]"):
                    stack.append(value)
                    continue
                self._at += 1
            elif head == ord("{"):
                self._at += 1
                value = {}
                if self._peek() != ord("}"):
                    stack.append(value)
                    keys.append(self._key())
                    continue
                self._at += 1
            else:
                value = self._scalar(head)
            # A value is complete: put it into its container, and close what closes.
            while True:
                if not stack:
                    return value
                if self._put(stack, value, keys):
                    break
                value = stack.pop()

    def _put(self, stack: list[list[Any] | dict[str, Any]], value: Any, keys: list[str]) -> bool:
        """Add ``value`` to the innermost container; whether another value follows (else that is complete)."""
        head: int
        parent = stack[-1]
        if isinstance(parent, list):
            parent.append(value)
            head = self._peek()
            if head not in b",]" or head == 0:
                raise self._fail("Missing a comma or ']' after an array element.")
            self._at += 1
            return head == ord(",")
        key = keys.pop()
        if key in parent and not isinstance(parent, Twins):
            stack[-1] = parent = Twins(parent.items())
        if isinstance(parent, Twins):
            parent.add(key, value)
        else:
            parent[key] = value
        head = self._peek()
        if head not in b",}" or head == 0:
            raise self._fail("Missing a comma or '}' after an object member.")
        self._at += 1
        if head == ord("}"):
            return False
        keys.append(self._key())
        return True

    def _key(self) -> str:
        if self._peek() != ord('"'):
            raise self._fail("Missing a name for object member.")
        key = self._string()
        if self._peek() != ord(":"):
            raise self._fail("Missing a colon after a name of object member.")
        self._at += 1
        return key

    def _scalar(self, head: int) -> Any:
        if head == ord('"'):
            return self._string()
        if head in _LITERALS:
            text, value = _LITERALS[head]
            self._expect(text)
            return value
        return self._number()

    def _number(self) -> int | float:
        start = self._at
        match = _NUMBER.match(self._body, start)
        if match is None:
            return self._not_finite()
        self._at = match.end()
        whole = True
        for opening, pattern, reason in (
            (b".", _FRACTION, "Miss fraction part in number."),
            (b"eE", _EXPONENT, "Miss exponent in number."),
        ):
            if self._body[self._at : self._at + 1] not in (opening[:1], opening[-1:]):
                continue
            part = pattern.match(self._body, self._at)
            if part is None:
                signed = opening == b"eE" and self._body[self._at + 1 : self._at + 2] in (b"+", b"-")
                raise self._fail(reason, self._at + (2 if signed else 1))
            self._at = part.end()
            whole = False
        text = self._body[start : self._at]
        # 20 characters hold every 64-bit integer; longer ones must not cost quadratic time in int().
        if whole and len(text) <= 20 and -(2**63) <= (number := int(text)) < 2**64:
            return number
        value = float(text)
        if math.isinf(value) and _is_too_big(text):
            raise self._fail("Number too big to be stored in double.", start)
        return value

    def _not_finite(self) -> float:
        """``NaN``, ``Inf`` or ``Infinity``; RapidJSON reads letter by letter and points at the first wrong one."""
        negative = self._body[self._at : self._at + 1] == b"-"
        self._at += negative
        if self._body[self._at : self._at + 1] == b"N":
            self._expect(b"NaN")
            return math.nan
        self._expect(b"Inf")
        if self._body[self._at : self._at + 1] == b"i":
            self._expect(b"inity")
        return -math.inf if negative else math.inf

    def _expect(self, text: bytes) -> None:
        for letter in text:
            if self._at >= len(self._body) or self._body[self._at] != letter:
                raise self._fail("Invalid value.")
            self._at += 1

    def _string(self) -> str:
        parts: list[bytes] = []
        self._at += 1
        while True:
            plain = _PLAIN.match(self._body, self._at)
            if plain:
                parts.append(plain.group())
                self._at = plain.end()
            head = self._body[self._at] if self._at < len(self._body) else 0
            if head == ord('"'):
                self._at += 1
                return b"".join(parts).decode("utf-8", "surrogateescape")
            if head == 0:
                raise self._fail("Missing a closing quotation mark in string.")
            if head != ord("\\"):
                raise self._fail("Invalid escape character in string.")
            parts.append(self._escape())

    def _escape(self) -> bytes:
        start = self._at
        letter = self._body[start + 1] if start + 1 < len(self._body) else 0
        if letter in _ESCAPES:
            self._at += 2
            return _ESCAPES[letter]
        if letter != ord("u"):
            raise self._fail("Invalid escape character in string.")
        unit = self._hex(start + 2, start)
        self._at = start + 6
        if 0xD800 <= unit <= 0xDBFF:  # a second half alone passes for a character
            if self._body[self._at : self._at + 2] != b"\\u":
                raise self._fail("The surrogate pair in string is invalid.", start)
            low = self._hex(start + 8, start)
            if not 0xDC00 <= low <= 0xDFFF:
                raise self._fail("The surrogate pair in string is invalid.", start)
            self._at = start + 12
            unit = 0x10000 + ((unit - 0xD800) << 10) + (low - 0xDC00)
        return chr(unit).encode("utf-8", "surrogatepass")

    def _hex(self, at: int, start: int) -> int:
        match = _HEX.match(self._body, at)
        if match is None:
            raise self._fail("Incorrect hex digit after \\u escape in string.", start)
        return int(match.group(), 16)
