"""The fast reader of plain bodies answers as the ordinary one does, or not at all."""

from __future__ import annotations

import json

import numpy as np
import pytest

from services.serving.decode import Format, decode_predict
from services.serving.json_reader import read_json
from services.serving.plain import block_of, read_plain
from services.serving.signature import Array, Signature, TensorSpec


def signature(*shape: int, dtype: str = "float") -> Signature:
    spec = TensorSpec("x:0", dtype, shape)
    return Signature("serving_default", "m", {"x": spec}, {"y": spec})


def fast(body: bytes, *shape: int) -> tuple[Format, Array] | None:
    spec = block_of(signature(*shape))
    assert spec is not None
    return read_plain(body, spec)


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": [[1], [2.5]]}',
        b'{"inputs": [[1e-3], [-0.0]]}',
        b' {\n"instances" :\t[ [ 1 ], [ 2 ] ] }\r\n',
        b'{"signature_name": "serving_default", "instances": [[1], [2]]}',
        b'{"instances": [[1]], "signature_name": ""}',
        b'{"instances": [[1e39], [18446744073709551615]]}',
    ],
)
def test_it_reads_what_the_ordinary_reader_reads(body: bytes) -> None:
    found = fast(body, -1, 1)
    assert found is not None
    ordinary = decode_predict(read_json(body), signature(-1, 1), "")
    assert found[0] is ordinary.format
    np.testing.assert_array_equal(found[1], ordinary.arrays["x"])
    assert found[1].dtype == np.float32


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
        b'{"instances": [[1]]',
    ],
)
def test_it_leaves_all_else_alone(body: bytes) -> None:
    assert fast(body, -1, 1) is None


def test_deep_blocks() -> None:
    array = np.random.default_rng(0).normal(size=(5, 3, 4, 2)).astype(np.float32)
    found = fast(json.dumps({"inputs": array.tolist()}).encode(), -1, 3, 4, 2)
    assert found is not None
    assert found[0] is Format.COLUMNAR
    np.testing.assert_array_equal(found[1], array)


def test_which_signatures_it_can_read() -> None:
    assert block_of(signature(-1, 2)) is not None
    assert block_of(signature(-1)) is not None
    assert block_of(signature(-1, -1)) is None
    assert block_of(signature(4, 2)) is None
    assert block_of(signature()) is None
    assert block_of(signature(-1, 2, dtype="int32")) is None
    two = Signature("serving_default", "m", {name: TensorSpec(name, "float", (-1,)) for name in "ab"}, {})
    assert block_of(two) is None
