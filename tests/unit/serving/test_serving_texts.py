"""The compiled writer of numbers writes what the ordinary one does."""

from __future__ import annotations

import struct

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from services.serving import encode
from services.serving.decode import Format

_texts = pytest.importorskip("services.serving._texts", reason="it was not compiled", exc_type=ImportError)

ANY_BITS = st.integers(0, 2**32 - 1).map(lambda bits: struct.unpack("<f", struct.pack("<I", bits))[0])
FEW_DIGITS = st.builds(
    lambda digits, places: digits / 10.0**places, st.integers(-(10**7), 10**7), st.integers(0, 12)
)


@settings(max_examples=500)
@given(st.lists(ANY_BITS | FEW_DIGITS | st.floats(-1, 1, width=32), min_size=1, max_size=6))
def test_numbers_have_the_text_that_they_have_without_it(numbers: list[float]) -> None:
    values = np.array(numbers, np.float32)
    expected = [encode._format_one(value, "f", "%.9g") for value in values.tolist()]
    assert _texts.write_floats(values, 0) == expected
    assert _texts.write_floats(values, len(numbers)) == [f"[{', '.join(expected)}]"]


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0.0, "0.0"),
        (-0.0, "-0.0"),
        (3, "3.0"),
        (9e6, "9e+06"),
        (1 / 3, "0.333333343"),
        (-1 / 3, "-0.333333343"),
        (16777215, "16777215.0"),
        (123456789, "123456792.0"),
        (0.00012345678, "0.000123456775"),
        (0.000012345678, "1.23456784e-05"),
        (1e-45, "1.4013e-45"),
        (float("nan"), "NaN"),
        (float("-inf"), "-Infinity"),
    ],
)
def test_texts(number: float, text: str) -> None:
    assert _texts.write_floats(np.array([number], np.float32), 0) == [text]


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 1, 3), (2, 3, 1), (0, 3), (2, 0)])
@pytest.mark.parametrize("layout", list(Format))
def test_answers_are_laid_out_the_same(
    shape: tuple[int, ...], layout: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    outputs = {"a": array, "b": np.asfortranarray(array)}
    compiled = encode.encode_predict(outputs, layout), encode.encode_predict({"a": array}, layout)
    monkeypatch.setattr(encode, "_texts", None)
    assert compiled == (encode.encode_predict(outputs, layout), encode.encode_predict({"a": array}, layout))


def test_it_takes_float32_in_whole_groups_only() -> None:
    with pytest.raises(TypeError, match="float32"):
        _texts.write_floats(np.zeros(2), 0)
    with pytest.raises(ValueError, match="groups"):
        _texts.write_floats(np.zeros(3, np.float32), 2)
    with pytest.raises(ValueError, match="groups"):
        _texts.write_floats(np.zeros(3, np.float32), -1)
    with pytest.raises((BufferError, ValueError)):
        _texts.write_floats(np.zeros((4, 4), np.float32)[:, ::2], 0)
