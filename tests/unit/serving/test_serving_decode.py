"""Rows and columns to arrays: accepted values, shapes, and TensorFlow Serving's error texts."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.serving.decode import (
    Format,
    PredictInputs,
    _explain,
    _fast,
    decode_predict,
    require_object,
    signature_name,
)
from services.serving.errors import Code, ServingError
from services.serving.json_reader import read_json
from services.serving.signature import NUMPY_TYPES, Signature, TensorSpec


def decode(body: str, **dtypes: str) -> PredictInputs:
    """Decode for a signature with the given inputs; one float input called x if none are given."""
    inputs = {
        alias: TensorSpec(f"{alias}:0", dtype, (-1, 1))
        for alias, dtype in sorted((dtypes or {"x": "float"}).items())
    }
    return decode_predict(read_json(body.encode()), Signature("s", "", inputs, {}), "")


def error_of(body: str, **dtypes: str) -> ServingError:
    with pytest.raises(ServingError) as caught:
        decode(body, **dtypes)
    return caught.value


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ('{"instances": [1.0, 2, 5]}', np.array([1, 2, 5], np.float32)),
        ('{"instances": [[1, 2], [3, 4]]}', np.array([[1, 2], [3, 4]], np.float32)),
        ('{"instances": [{"x": 1}, {"x": 2}]}', np.array([1, 2], np.float32)),
        ('{"instances": [[], []]}', np.zeros((2, 0), np.float32)),
        ('{"instances": [1e300, -1e300]}', np.array([np.inf, -np.inf], np.float32)),
        ('{"instances": [NaN, Infinity]}', np.array([np.nan, np.inf], np.float32)),
        ('{"inputs": 5}', np.array(5, np.float32)),
        ('{"inputs": []}', np.zeros((0,), np.float32)),
        ('{"inputs": [[1], [2]]}', np.array([[1], [2]], np.float32)),
        ('{"inputs": {"x": [1, 2], "unknown": "ignored"}}', np.array([1, 2], np.float32)),
        ('{"instances": [1], "instances": [2, 3]}', np.array([1], np.float32)),
    ],
)
def test_float_input(body: str, expected: np.ndarray) -> None:
    found = decode(body).arrays["x"]
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found, expected)


def test_formats() -> None:
    assert decode('{"instances": [1]}').format is Format.ROW
    assert decode('{"inputs": [1]}').format is Format.COLUMNAR


@pytest.mark.parametrize(
    ("dtype", "text", "expected"),
    [
        ("int32", "[2147483647, -2147483648]", [2**31 - 1, -(2**31)]),
        ("uint8", "[300, -1]", [44, 255]),  # no range check but int32's, by contract
        ("int8", "[200]", [-56]),
        ("int64", "[9007199254740993, -9223372036854775808]", [2**53 + 1, -(2**63)]),
        ("uint64", "[18446744073709551615]", [2**64 - 1]),
        ("uint32", "[4294967295]", [2**32 - 1]),
        ("bool", "[true, false]", [True, False]),
        ("double", "[0.1, 1]", [0.1, 1.0]),
    ],
)
def test_exact_values(dtype: str, text: str, expected: list[Any]) -> None:
    found = decode(f'{{"inputs": {text}}}', x=dtype).arrays["x"]
    assert found.dtype == NUMPY_TYPES[dtype]
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("dtype", "leaf", "kind"),
    [
        ("float", "true", "True"),
        ("float", "null", "Null"),
        ("float", '"1"', "String"),
        ("int32", "1.0", "Number"),
        ("int32", "2147483648", "Number"),
        ("int32", "true", "True"),
        ("int64", "9223372036854775808", "Number"),
        ("uint32", "-1", "Number"),
        ("uint64", "-1", "Number"),
        ("uint64", "18446744073709551616", "Number"),
        ("bool", "1", "Number"),
        ("string", "1", "Number"),
        ("int32", '{"a": 1}', "Object"),
    ],
)
def test_a_leaf_of_the_wrong_type_is_named(dtype: str, leaf: str, kind: str) -> None:
    error = error_of(f'{{"inputs": {{"x": [{leaf}]}}}}', x=dtype)
    assert error.code is Code.INVALID_ARGUMENT
    assert f" Type: {kind} is not of expected type: {dtype}" in error.message


def test_strings_and_base64() -> None:
    found = decode('{"instances": ["é", {"b64": "AP8="}, {"b64": "AP8"}, {"b64": "A P 8="}]}', x="string")
    assert found.arrays["x"].tolist() == ["é".encode(), b"\x00\xff", b"\x00\xff", b"\x00\xff"]


def test_a_lone_base64_object_is_a_value() -> None:
    assert decode('{"inputs": {"b64": "AA=="}}', x="string").arrays["x"].item() == b"\x00"


def test_of_an_input_that_is_there_twice_the_first_values_count() -> None:
    rows = decode('{"instances": [{"x": 1, "x": 2}, {"x": 3, "x": 4}]}', x="float")
    assert rows.arrays["x"].tolist() == [1, 2], "as many as there are rows, from the front"
    assert decode('{"instances": [{"x": 1, "x": 2}]}', x="float").arrays["x"].tolist() == [1]
    assert decode('{"inputs": {"x": 1, "x": 2}}', x="float").arrays["x"].tolist() == 1
    assert "size: 1 but got: 2" in error_of('{"instances": [{"x": 1, "x": [2, 3]}]}', x="float").message
    twice = '{"inputs": [{"b64": "YQ==", "b64": "YQ=="}]}'
    assert "not formatted correctly for base64 data" in error_of(twice, x="string").message


def test_a_name_ends_at_a_nul_in_rows_only() -> None:
    assert decode('{"instances": [{"x\\u0000y": 1}]}', x="float").arrays["x"].tolist() == [1]
    assert (
        error_of('{"inputs": {"x\\u0000y": 1}}', x="float").message
        == "Missing named input: x in 'inputs' object."
    )


def test_bytes_that_are_no_utf8_pass_through() -> None:
    document = read_json(b'{"instances": ["\xff"]}')
    signature = Signature("s", "", {"x": TensorSpec("x:0", "string", None)}, {})
    assert decode_predict(document, signature, "").arrays["x"].tolist() == [b"\xff"]


def test_several_named_inputs() -> None:
    rows = decode('{"instances": [{"a": 1, "b": ["x"]}, {"b": ["y"], "a": 2}]}', a="int32", b="string").arrays
    assert rows["a"].tolist() == [1, 2]
    assert rows["b"].tolist() == [[b"x"], [b"y"]]
    columns = decode('{"inputs": {"b": "x", "a": [[1]]}}', a="int32", b="string").arrays
    assert columns["a"].shape == (1, 1)
    assert columns["b"].shape == ()


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ("{}", "Missing 'inputs' or 'instances' key"),
        ('{"inputs": 1, "instances": [1]}', "expecting only one of 'inputs' or 'instances' keys to exist"),
        ('{"instances": 1}', "Expecting 'instances' to be an list/array"),
        ('{"instances": []}', "No values in 'instances' array"),
        ('{"instances": [{"x": 1}, 2]}', "Expecting object but got list at item 1 of input list"),
        ('{"instances": [1, {"x": 2}]}', "Expecting value/list but got object at item 1 of input list"),
        (
            '{"instances": [[1], [1, 2]]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT:"
            " Expecting tensor size: 1 but got: 2",
        ),
        (
            '{"instances": [[1, 2], [[1, 2]]]}',
            "Failed to process element: 1 of 'instances' list. Error: INVALID_ARGUMENT:"
            " Expecting shape [2] but got: [1,2]",
        ),
        (
            '{"instances": [[[1, 2], [3]]]}',
            "Encountered list at unexpected size: 1 at level: 1 expected size: 2",
        ),
        ('{"instances": [[1, [2]]]}', "Encountered list at unexpected level: 1 expected < 1"),
        (
            '{"instances": [[[1], 2]]}',
            "JSON Value: 2 found at incorrect level: 2 in the JSON DOM. Expected at level: 2",
        ),
        (
            '{"instances": [{"x": 1}, {"x": "a"}]}',
            "Failed to process element: 1 key: x of 'instances' list. Error: INVALID_ARGUMENT: JSON Value:"
            ' "a" Type: String is not of expected type: float',
        ),
        (
            '{"instances": [{"z": 1}]}',
            "Failed to process element: 0 key: z of 'instances' list. Error: INVALID_ARGUMENT: JSON object:"
            " does not have named input: z",
        ),
        ('{"inputs": {"z": 1}}', "Missing named input: x in 'inputs' object."),
    ],
)
def test_errors(body: str, part: str) -> None:
    error = error_of(body)
    assert error.code is Code.INVALID_ARGUMENT
    assert part in error.message


def test_errors_of_several_inputs() -> None:
    two = {"a": "float", "b": "float"}
    assert (
        "instances is a plain list, but expecting list of objects"
        in error_of('{"instances": [1]}', **two).message
    )
    assert (
        "inputs is a plain value/list, but expecting an object" in error_of('{"inputs": [1]}', **two).message
    )
    assert error_of('{"instances": [{"a": 1}]}', **two).message.endswith("keys must be equal to: a,b")
    assert "Missing named input: b" in error_of('{"inputs": {"a": 1}}', **two).message


@pytest.mark.parametrize(
    ("leaf", "part"),
    [
        ('{"b64": "*"}', "Unable to base64 decode"),
        ('{"b64": "_-8="}', "Unable to base64 decode"),  # the web-safe alphabet
        ('{"b64": "AP8=\u00a0"}', "Unable to base64 decode"),  # a space, but not ASCII's
        ('{"b64": 1}', "not formatted correctly for base64 data"),
        ('{"b64": "AA==", "more": 1}', "not formatted correctly for base64 data"),
    ],
)
def test_base64_errors(leaf: str, part: str) -> None:
    assert part in error_of(f'{{"inputs": [[{leaf}]]}}', x="string").message


def test_types_without_json_form_are_unimplemented_in_columns_and_invalid_in_rows() -> None:
    column = error_of('{"inputs": [1]}', x="half")
    assert (column.code, column.message) == (Code.UNIMPLEMENTED, "Conversion of JSON Value: 1 to type: half")
    row = error_of('{"instances": [1]}', x="half")
    assert row.code is Code.INVALID_ARGUMENT
    assert "Error: UNIMPLEMENTED: Conversion of JSON Value: 1 to type: half" in row.message


def test_a_type_without_json_form_can_be_empty() -> None:
    array = decode('{"inputs": [[], []]}', x="half").arrays["x"]
    assert (array.dtype, array.shape) == (np.float16, (2, 0))


def test_a_signature_without_inputs() -> None:
    with pytest.raises(ServingError, match="Failed to get input map for signature: DEFAULT"):
        decode_predict({"instances": [1]}, Signature("s", "", {}, {}), "")


def test_top_level_and_signature_name() -> None:
    with pytest.raises(ServingError, match=r"JSON Value: \[1\] Is not object"):
        require_object([1])
    with pytest.raises(ServingError, match="'signature_name' key must be a string value"):
        signature_name({"signature_name": 1})
    assert signature_name({}) == ""


def test_quoted_values_are_cut_but_a_single_text_is_not() -> None:
    message = error_of(json.dumps({"instances": {"key": list(range(1000))}})).message
    assert len(message) < 400
    assert error_of(json.dumps({"inputs": ["a" * 1000]})).message.count("a") >= 1000


def test_nesting_without_end_is_an_error() -> None:
    deep = read_json(b'{"instances": ' + b"[" * 50_000 + b"1" + b"]" * 50_000 + b"}")
    with pytest.raises(ServingError) as caught:
        decode_predict(deep, Signature("s", "", {"x": TensorSpec("x:0", "float", None)}, {}), "")
    assert caught.value.code is Code.INVALID_ARGUMENT


_leaves = st.none() | st.booleans() | st.integers(-3, 2**65) | st.floats() | st.text(max_size=2)
_trees = st.recursive(_leaves, lambda inner: st.lists(inner, max_size=3), max_leaves=12)


@given(_trees, st.sampled_from(["float", "int8", "uint64", "int64", "bool", "string", "half"]))
def test_the_fast_and_the_explaining_way_agree(tree: Any, dtype: str) -> None:
    tree = read_json(json.dumps(tree).encode())  # what JSON makes of it: integers beyond 64 bits are floats
    array = _fast(tree, dtype)
    try:
        count, shape = _explain(tree, dtype)
    except ServingError:
        assert array is None
    else:
        if array is None:
            assert dtype == "half"  # an empty list has no leaf to complain about
            assert count == 0
        else:
            assert (array.size, list(array.shape)) == (count, shape)
