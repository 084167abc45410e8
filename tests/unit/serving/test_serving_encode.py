"""Answers: layouts, and numbers as TensorFlow Serving writes them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.serving.decode import Format
from services.serving.encode import encode_predict, format_floats
from services.serving.errors import Code, ServingError
from services.serving.signature import Array


def row(**outputs: Array) -> bytes:
    return encode_predict(outputs, Format.ROW)


def columnar(**outputs: Array) -> bytes:
    return encode_predict(outputs, Format.COLUMNAR)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (3, "3.0"),
        (0, "0.0"),
        (-0.0, "-0.0"),
        (9000000, "9e+06"),
        (0.00003, "3e-05"),
        (1 / 3, "0.333333343"),
        (0.2, "0.2"),
        (123456, "123456.0"),
        (16777216, "16777216.0"),
        (np.nan, "NaN"),
        (np.inf, "Infinity"),
        (-np.inf, "-Infinity"),
        (3.4028235e38, "3.40282347e+38"),
    ],
)
def test_float32_texts(value: float, text: str) -> None:
    assert format_floats(np.array([value], np.float32), "%.9g") == [text]


def test_float64_texts() -> None:
    assert format_floats(np.array([1 / 3, 0.5, 1e300]), "%.17g") == ["0.33333333333333331", "0.5", "1e+300"]


def _by_the_rule(value: float, kind: type, exact: str) -> str:
    if not np.isfinite(value):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    with np.errstate(over="ignore"):
        text = f"{value:.6g}" if kind(float(f"{value:.6g}")) == value else exact % value
    return text if "." in text or "e" in text else text + ".0"


@pytest.mark.parametrize(("kind", "exact"), [(np.float32, "%.9g"), (np.float64, "%.17g")])
@given(data=st.data())
def test_six_digits_where_they_read_back(kind: type, exact: str, data: st.DataObject) -> None:
    width = 32 if kind is np.float32 else 64
    short = st.builds(
        lambda digits, exponent: float(kind(digits * 10.0**exponent)),
        st.integers(-9_999_999, 9_999_999), st.integers(-12, 12),
    )  # fmt: skip
    near = st.builds(
        lambda value, up: float(np.nextafter(kind(value), kind(up * np.inf))), short, st.sampled_from((-1, 1))
    )
    values = data.draw(st.lists(st.floats(width=width) | short | near, min_size=1, max_size=20))
    for some in (values, values * 101):  # few are written in another way than many
        found = format_floats(np.array(some, kind), exact)
        assert found == [_by_the_rule(value, kind, exact) for value in some]


@given(st.lists(st.floats(width=32), max_size=20))
def test_float32_texts_read_back_as_the_same_number(values: list[float]) -> None:
    numbers = np.array(values, np.float32)
    back = json.loads("[" + ",".join(format_floats(numbers, "%.9g")) + "]")
    assert all(isinstance(value, float) for value in back)
    np.testing.assert_array_equal(np.array(back, np.float64).astype(np.float32), numbers)


def test_the_layout_of_one_output_by_rows() -> None:
    assert row(y=np.array([2.5, 3, 4.5], np.float32)) == b'{\n    "predictions": [2.5, 3.0, 4.5\n    ]\n}'


def test_several_outputs_by_rows_are_one_object_an_item() -> None:
    body = row(a=np.array([[1, 2], [3, 4]], np.int32), b=np.array([True, False]))
    assert json.loads(body) == {"predictions": [{"a": [1, 2], "b": True}, {"a": [3, 4], "b": False}]}


def test_columns() -> None:
    assert json.loads(columnar(y=np.array(5, np.int64))) == {"outputs": 5}
    assert json.loads(columnar(y=np.zeros((2, 0, 3), np.float32))) == {"outputs": [[], []]}
    both = columnar(a=np.array([[1.5]]), b=np.array([b"x"], object))
    assert json.loads(both) == {"outputs": {"a": [[1.5]], "b": ["x"]}}


def test_an_empty_batch_is_an_empty_list() -> None:
    assert json.loads(row(y=np.zeros((0, 3), np.float32))) == {"predictions": []}
    assert json.loads(row(a=np.zeros((0, 3), np.float32), b=np.zeros(0))) == {"predictions": []}
    assert json.loads(columnar(y=np.zeros((0, 3), np.float32))) == {"outputs": []}


def test_large_integers_are_exact() -> None:
    assert b"18446744073709551615" in row(y=np.array([2**64 - 1], np.uint64))
    assert b"-9223372036854775808" in row(y=np.array([-(2**63)], np.int64))


def test_strings_escape_what_they_must_and_keep_other_bytes() -> None:
    body = row(y=np.array([b'a"\\\n\x01\xc3\xa9/', b"\xff"], object))
    assert rb'"a\"\\\n\u0001' + b'\xc3\xa9/", "\xff"' in body


def test_outputs_named_bytes_are_base64_if_they_are_strings() -> None:
    body = row(img_bytes=np.array([b"\x00\xff"], object), n_bytes=np.array([7], np.int32))
    assert json.loads(body) == {"predictions": [{"img_bytes": {"b64": "AP8="}, "n_bytes": 7}]}


@pytest.mark.parametrize(
    ("dtype", "name"), [(np.float16, "half"), (np.uint16, "uint16"), (np.complex64, "complex64")]
)
def test_types_without_json_form(dtype: type, name: str) -> None:
    with pytest.raises(ServingError) as caught:
        row(y=np.zeros(1, dtype))
    assert caught.value.code is Code.INVALID_ARGUMENT
    assert caught.value.message == f"Failed to write JSON value for tensor type: {name}"


def test_rows_need_a_common_batch_dimension() -> None:
    with pytest.raises(ServingError, match="Tensor name: y has no shape information "):
        row(y=np.array(1.0))
    with pytest.raises(ServingError, match="Tensor name: b has inconsistent batch size: 3 expecting: 2"):
        row(a=np.zeros(2), b=np.zeros(3))


@pytest.mark.parametrize("layout", list(Format))
def test_nothing_of_a_type_without_json_form_can_be_written(layout: Format) -> None:
    (found,) = json.loads(encode_predict({"y": np.empty((0, 2), np.float16)}, layout)).values()
    assert found == []
