"""The fast readers of plain bodies answer as the ordinary one does, or not at all."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from decimal import Decimal

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from services.serving import plain
from services.serving.decode import Format, decode_predict
from services.serving.errors import ServingError
from services.serving.json_reader import read_json
from services.serving.plain import block_of
from services.serving.signature import Array, Signature, TensorSpec

Reader = Callable[..., tuple[Format, Array] | None]


def signature(*shape: int, dtype: str = "float") -> Signature:
    spec = TensorSpec("x:0", dtype, shape)
    return Signature("serving_default", "m", {"x": spec}, {"y": spec})


@pytest.fixture(scope="module", params=["compiled", "flat"])
def fast(request: pytest.FixtureRequest) -> Reader:
    """Both ways to read, each by itself."""
    if request.param == "flat":
        return lambda body, *shape: plain._read_flat(body, shape[1:])
    if plain._blocks is None:
        pytest.skip("services.serving._blocks was not compiled: no C compiler, or no headers of Python")
    return lambda body, *shape: plain._read_compiled(body, shape[1:])


def ordinary(body: bytes, *shape: int) -> tuple[Format, Array] | None:
    """What the reader of all bodies makes of it; None: an error."""
    try:
        document = read_json(body)
        if not isinstance(document, dict):
            return None
        read = decode_predict(document, signature(*shape), "")
    except ServingError:
        return None
    return read.format, read.arrays["x"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": [[1], [2.5]]}',
        b'{"inputs": [[1e-3], [-0.0]]}',
        b' {\n"instances" :\t[ [ 1 ], [ 2 ] ] }\r\n',
        b'{"signature_name": "serving_default", "instances": [[1], [2]]}',
        b'{"instances": [[1]], "signature_name": ""}',
        b'{"instances": [[0.1E+1], [123456789012345678]]}',
        b'{"instances": [[1e22], [-0]]}',
    ],
)
def test_it_reads_what_the_ordinary_reader_reads(fast: Reader, body: bytes) -> None:
    found, expected = fast(body, -1, 1), ordinary(body, -1, 1)
    assert found is not None
    assert expected is not None
    assert found[0] is expected[0]
    assert found[1].tobytes() == expected[1].tobytes()
    assert found[1].dtype == np.float32


def test_numbers_beyond_float32_are_read_without_the_compiled_reader() -> None:
    spec = block_of(signature(-1, 1))
    assert spec is not None
    found = plain.read_plain(b'{"instances": [[1e39], [18446744073709551615]]}', spec)
    assert found is not None
    assert found[1].tolist() == [[np.inf], [2.0**64]]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[[1]]",
        b'{"instances": []}',
        b'{"instances": [1, 2]}',
        b'{"instances": [[1], []]}',
        b'{"instances": [[1, 2], [3, 4]]}',
        b'{"instances": [[1], [true]]}',
        b'{"instances": [[1], ["2"]]}',
        b'{"instances": [[1], [NaN]]}',
        b'{"instances": [[1], [1e400]]}',
        b'{"instances": [{"x": [1]}]}',
        b'{"instances": [[1]], "inputs": 1}',
        b'{"instances": [[1]], "instances": [[2]]}',
        b'{"instances": [[1]], "other": 1}',
        b'{"inst1ances": [[1]]}',
        b'{"a": {"instances": [[1]]}}',
        b'{"a": {"instances": [[1]]}, "instances": [[2]]}',
        b'{"signature_name": "other", "instances": [[1]]}',
        b'{"signature_name": 1, "instances": [[1]]}',
        b'{"signature_name": "\\"instances\\":[[1]]", "instances": [[2]]}',
        b'{"instances": [[1]]} and more',
        b'{"instances": [[1]]}}',
        b'{"instances": [[1],]}',
        b'{"instances": [[1,]]}',
        b'{"instances": [[01]]}',
        b'{"instances": [[1.]]}',
        b'{"instances": [[.5]]}',
        b'{"instances": [[+1]]}',
        b'{"instances": [[-]]}',
        b'{"instances": [[1e]]}',
        b'{"instances": [[1e+]]}',
        b'{"instances": [[0x10]]}',
        b'{"instances": [[1_0]]}',
        b'{"instances": [[1]\x00]}',
        b'{"instances": [[1]]\x00}',
        b'{"instances": [[1]]\x0b}',
        b'{"signature_name": "", "instances": [[1]], "signature_name": ""}',
        b'{"instances": [[1]]',
    ],
)
def test_it_leaves_all_else_alone(fast: Reader, body: bytes) -> None:
    assert fast(body, -1, 1) is None


def test_deep_blocks(fast: Reader) -> None:
    array = np.random.default_rng(0).normal(size=(5, 3, 4, 2)).astype(np.float32)
    found = fast(json.dumps({"inputs": array.tolist()}).encode(), -1, 3, 4, 2)
    assert found is not None
    assert found[0] is Format.COLUMNAR
    np.testing.assert_array_equal(found[1], array)


def test_more_rows_than_the_first_one_promised(fast: Reader) -> None:
    rows = [[1 / 3, 2 / 3]] + [[0, 1]] * 3000 + [[1e-7 / 3, 5.0]] * 3000
    found = fast(json.dumps({"instances": rows}).encode(), -1, 2)
    assert found is not None
    np.testing.assert_array_equal(found[1], np.array(rows, np.float32))


WHOLE = st.integers(0, 10**25).map(str)
NUMBERS = st.builds(
    "{}{}{}{}".format,
    st.sampled_from(["", "-"]),
    st.sampled_from(["0", "1", "9", "12"]) | WHOLE,
    st.just("") | st.text("0123456789", min_size=1, max_size=30).map(".{}".format),
    st.just("") | st.builds("{}{}".format, st.sampled_from(["e", "E", "e+", "e-", "E-"]), st.integers(0, 60)),
)


@st.composite
def near_a_border(draw: st.DrawFn) -> str:
    """Decimals at, or a hair beside, the middle between two neighbouring float32."""
    bits = draw(st.integers(0x2F000000, 0x4F000000))  # 1.2e-10 to 2.1e9
    low, high = struct.unpack("<ff", struct.pack("<II", bits, bits + 1))
    middle = (Decimal(low) + Decimal(high)) / 2
    beside = middle * (1 + draw(st.integers(-9, 9)) * Decimal(10) ** -draw(st.integers(15, 20)))
    return f"{beside:.{draw(st.integers(14, 20))}e}"


@settings(max_examples=400)
@given(st.lists(NUMBERS | near_a_border() | st.floats(allow_nan=False).map(repr), min_size=1, max_size=4))
def test_a_number_is_the_float_nearest_to_its_nearest_double(texts: list[str]) -> None:
    if plain._blocks is None:
        pytest.skip("services.serving._blocks was not compiled")
    for text in texts:
        block = plain._blocks.read_block(f"[{text}]".encode(), 0, ())
        with np.errstate(over="ignore"):
            expected = np.float32(float(text))
        if block is None:  # left to the other reader
            assert not abs(expected) < 3.3e38 or len(text.lstrip("-")) > 18
        elif text.lstrip("-").isdigit() and int(text) == 0:
            assert block[2] == bytes(4)  # a whole -0 is 0
        else:
            assert block[2] == expected.tobytes(), text


@settings(max_examples=300)
@given(st.data())
def test_whatever_is_changed_in_a_body_it_reads_the_same_or_nothing(
    fast: Reader, data: st.DataObject
) -> None:
    rows = data.draw(st.lists(st.lists(NUMBERS, min_size=2, max_size=2), min_size=1, max_size=3))
    body = bytearray(b'{"instances": [%b]}' % ", ".join(f"[{a}, {b}]" for a, b in rows).encode())
    for _ in range(data.draw(st.integers(0, 3))):
        at = data.draw(st.integers(0, len(body)))
        body[at : at + data.draw(st.integers(0, 2))] = data.draw(
            st.sampled_from(
                [
                    b"",
                    b"[",
                    b"]",
                    b",",
                    b"}",
                    b"0",
                    b"-",
                    b".",
                    b"e5",
                    b" ",
                    b"\x00",
                    b'"',
                    b"[1, 2]",
                    b"], [",
                ]
            )
        )
    found, expected = fast(bytes(body), -1, 2), ordinary(bytes(body), -1, 2)
    if found is not None:
        assert expected is not None, bytes(body)
        assert found[0] is expected[0]
        assert found[1].tobytes() == expected[1].tobytes(), bytes(body)


@settings(max_examples=300)
@given(st.binary(max_size=40), st.integers(0, 41), st.lists(st.integers(-1, 5), max_size=9))
def test_the_compiled_reader_takes_any_bytes(body: bytes, at: int, shape: list[int]) -> None:
    if plain._blocks is None:
        pytest.skip("services.serving._blocks was not compiled")
    block = plain._blocks.read_block(body, at, tuple(shape))
    assert block is None or block[1] <= len(body)


def test_which_signatures_it_can_read() -> None:
    assert block_of(signature(-1, 2)) is not None
    assert block_of(signature(-1)) is not None
    assert block_of(signature(-1, -1)) is None
    assert block_of(signature(4, 2)) is None
    assert block_of(signature()) is None
    assert block_of(signature(-1, 2, dtype="int32")) is None
    two = Signature("serving_default", "m", {name: TensorSpec(name, "float", (-1,)) for name in "ab"}, {})
    assert block_of(two) is None
