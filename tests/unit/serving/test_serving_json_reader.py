"""JSON as RapidJSON reads it: what is accepted, and where errors are placed."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.serving.errors import ServingError
from services.serving.json_reader import _Reader, read_json

DEEP = 100_000  # a call for each would need more than any stack has

_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=4),
    max_leaves=20,
)


@given(_values, st.booleans())
def test_both_readers_agree_with_the_standard_library(value: Any, ascii_only: bool) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only)
    # Lone surrogates can be written by Python, and are no JSON.
    try:
        body = text.encode()
    except UnicodeEncodeError:
        return
    if ascii_only and any(0xD800 <= ord(char) <= 0xDFFF for char in json.dumps(value, ensure_ascii=False)):
        return
    expected = json.loads(text)
    assert repr(_Reader(body).read()) == repr(expected)
    assert repr(read_json(body)) == repr(expected)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[1, 1.0, 1e0]", [1, 1.0, 1.0]),
        (b"[18446744073709551615, -9223372036854775808]", [2**64 - 1, -(2**63)]),
        (b"[18446744073709551616]", [2.0**64]),
        (b"[-0]", [0]),
        (b"[Infinity, -Infinity, Inf, -Inf]", [math.inf, -math.inf, math.inf, -math.inf]),
        (b'{"a": 1, "a": 2}', {"a": 1}),
        (b'{"a": "x:y", "b": 1, "a": 2}', {"a": "x:y", "b": 1}),
        (b'{"a": {"b": 1, "b": 2}}', {"a": {"b": 1}}),
        (b'{"a": 1} and more', {"a": 1}),
        (b'\xef\xbb\xbf {"a": 1}', {"a": 1}),
        (b'["\\u00e9\\ud83d\\ude00\\n\\/"]', ["é😀\n/"]),
        (b'["\xff\xfe"]', ["\udcff\udcfe"]),
        (b"[[], {}, [{}], null, true, false]", [[], {}, [{}], None, True, False]),
    ],
)
def test_reads(body: bytes, expected: Any) -> None:
    found = read_json(body)
    assert repr(found) == repr(expected)  # repr keeps 1 and 1.0 apart


def test_not_a_number_is_read_as_one() -> None:
    assert [math.isnan(value) for value in read_json(b"[NaN, -NaN, 1]")] == [True, True, False]


@pytest.mark.parametrize(
    ("body", "reason", "offset"),
    [
        (b"  ", "The document is empty.", 2),
        (b"]", "The document is empty.", 0),
        (b"x", "Invalid value.", 0),
        (b"{", "Missing a name for object member.", 1),
        (b'{"a"}', "Missing a colon after a name of object member.", 4),
        (b'{"a":}', "Invalid value.", 5),
        (b'{"a":1,}', "Missing a name for object member.", 7),
        (b'{"a":1 "b"}', "Missing a comma or '}' after an object member.", 7),
        (b"[1,]", "Invalid value.", 3),
        (b"[1 2]", "Missing a comma or ']' after an array element.", 3),
        (b"[1", "Missing a comma or ']' after an array element.", 2),
        (b"[", "Invalid value.", 1),
        (b"[01]", "Missing a comma or ']' after an array element.", 2),
        (b"[+1]", "Invalid value.", 1),
        (b"[.5]", "Invalid value.", 1),
        (b"[1.]", "Miss fraction part in number.", 3),
        (b"[1e]", "Miss exponent in number.", 3),
        (b"[1e400]", "Number too big to be stored in double.", 1),
        (b"[%d]" % 10**309, "Number too big to be stored in double.", 1),
        (b"[tru]", "Invalid value.", 4),
        (b'["a', "Missing a closing quotation mark in string.", 3),
        (b'["a\x01"]', "Invalid escape character in string.", 3),
        (b'["\\x"]', "Invalid escape character in string.", 2),
        (b'["\\u12g4"]', "Incorrect hex digit after \\u escape in string.", 2),
        (b'["\\ud800"]', "The surrogate pair in string is invalid.", 2),
        (b'["\\ud800\\ud800"]', "The surrogate pair in string is invalid.", 2),
    ],
)
def test_refuses_with_reason_and_offset(body: bytes, reason: str, offset: int) -> None:
    with pytest.raises(ServingError) as caught:
        read_json(body)
    assert caught.value.message == f"JSON Parse error: {reason} at offset: {offset}"


def test_an_empty_body_has_no_offset() -> None:
    with pytest.raises(ServingError, match=r"JSON Parse error: The document is empty$"):
        read_json(b"")


def test_a_hundred_thousand_levels_are_read() -> None:
    value = read_json(b"[" * DEEP + b"1" + b"]" * DEEP)
    for _ in range(DEEP):
        (value,) = value
    assert value == 1


def test_a_hundred_thousand_unclosed_levels_are_an_error() -> None:
    with pytest.raises(ServingError, match="Invalid value"):
        read_json(b"[" * DEEP)


def test_a_number_of_a_million_digits_costs_no_quadratic_time() -> None:
    with pytest.raises(ServingError, match="Number too big"):
        read_json(b"[" + b"9" * 1_000_000 + b"]")


def test_a_number_a_little_beyond_double_is_infinity() -> None:
    assert read_json(b"[2e308, -1.8e308, 1.5e309]") == [math.inf, -math.inf, math.inf]


def test_a_second_half_of_a_surrogate_pair_passes_alone() -> None:
    (text,) = read_json(b'["a\\udc00"]')
    assert text.encode("utf-8", "surrogateescape") == b"a\xed\xb0\x80"
