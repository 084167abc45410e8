"""TensorProto messages, against TensorFlow's own reading and writing of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from services.serving.tensors import fill_proto, to_array

pytestmark = pytest.mark.tf

TYPES = (
    "float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64",
    "uint8", "uint16", "uint32", "uint64", "bool", "complex64", "complex128",
)  # fmt: skip


@pytest.fixture(scope="module")
def tf() -> Any:
    import tensorflow

    return tensorflow


def proto(tf: Any, **fields: Any) -> Any:
    from tensorflow.core.framework.tensor_pb2 import TensorProto

    return TensorProto(**fields)


@pytest.mark.parametrize("name", TYPES)
def test_numbers_are_read_and_written_in_both_forms(tf: Any, name: str) -> None:
    dtype = tf.as_dtype(name)
    array = np.array([[0, 1, 3], [1, 0, 2]]).astype(dtype.as_numpy_dtype)
    for as_content in (False, True):
        written = proto(tf)
        fill_proto(written, array, as_content=as_content)
        assert bool(written.tensor_content) is as_content
        assert (tf.make_ndarray(written) == array).all()
        found, read = to_array(written)
        assert found in (name, {"float32": "float", "float64": "double", "float16": "half"}.get(name))
        assert (read.dtype, read.tolist()) == (array.dtype, array.tolist())
    assert (to_array(tf.make_tensor_proto(array, dtype))[1] == array).all()
    scalar = to_array(tf.make_tensor_proto(array[0, 1], dtype))[1]
    assert (scalar.shape, scalar[()]) == ((), array[0, 1])
    empty = to_array(tf.make_tensor_proto(array[:0], dtype))[1]
    assert empty.shape == (0, 3)


def test_texts(tf: Any) -> None:
    array = np.array([[b"a"], [b""], [b"\xff" * 300]], dtype=object)
    written = proto(tf)
    fill_proto(written, array, as_content=True)
    assert to_array(written)[1].tolist() == array.tolist()
    # TensorFlow's packed form: three lengths as varints (300 is ac 02), then the bytes.
    packed = b"\x01\x00\xac\x02" + b"a" + b"\xff" * 300
    written.ClearField("string_val")
    written.tensor_content = packed
    assert to_array(written)[1].tolist() == array.tolist()
    for broken in (packed[:-1], packed + b"x", packed[:1], b"\xff" * 12):
        written.tensor_content = broken
        with pytest.raises(ValueError, match="content"):
            to_array(written)


def test_the_last_value_repeats_and_none_is_zero(tf: Any) -> None:
    shape = tf.TensorShape([4]).as_proto()
    assert to_array(proto(tf, dtype=1, tensor_shape=shape, float_val=[1, 2]))[1].tolist() == [1, 2, 2, 2]
    assert to_array(proto(tf, dtype=1, tensor_shape=shape))[1].tolist() == [0, 0, 0, 0]
    assert to_array(proto(tf, dtype=7, tensor_shape=shape))[1].tolist() == [b"", b"", b"", b""]


def test_what_is_too_much_is_left_out_and_no_rank_is_that_of_a_scalar(tf: Any) -> None:
    two = tf.TensorShape([2]).as_proto()
    assert to_array(proto(tf, dtype=1, tensor_shape=two, float_val=[1, 2, 3]))[1].tolist() == [1, 2]
    assert to_array(proto(tf, dtype=8, tensor_shape=two, scomplex_val=[1, 2, 3]))[1].tolist() == [1 + 2j] * 2
    none = tf.TensorShape([0]).as_proto()
    assert to_array(proto(tf, dtype=1, tensor_shape=none, tensor_content=b"1234"))[1].shape == (0,)
    unknown = tf.TensorShape(None).as_proto()
    assert to_array(proto(tf, dtype=1, tensor_shape=unknown, float_val=[1, 2]))[1].tolist() == 1


def test_what_makes_no_tensor(tf: Any) -> None:
    two = tf.TensorShape([2]).as_proto()
    for wrong in (
        proto(tf, dtype=1, tensor_shape=two, tensor_content=b"1234"),
        proto(tf, dtype=1, tensor_shape=two, tensor_content=b"12345"),
        proto(tf, dtype=1, tensor_shape=tf.TensorShape([2**40]).as_proto(), float_val=[1]),
        proto(tf, dtype=1, tensor_shape=tf.TensorShape([None]).as_proto()),
        proto(tf, dtype=20, tensor_shape=two),
        proto(tf),
    ):
        with pytest.raises(ValueError, match=r"."):
            to_array(wrong)
