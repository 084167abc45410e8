"""TFRecord files read without TensorFlow."""

from __future__ import annotations

import struct

import pytest

from services.serving.errors import Code, ServingError
from services.serving.tfrecord import masked, records


def record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked(length)) + data + struct.pack("<I", masked(data))


TWO = record(b"two")


def test_the_checksum_is_castagnolis() -> None:
    # https://www.rfc-editor.org/rfc/rfc3720#appendix-B.4: 32 bytes of zeros
    plain = 0x8A9136AA
    assert masked(bytes(32)) == (((plain >> 15) | (plain << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def test_records_come_back() -> None:
    assert list(records(b"")) == []
    assert list(records(record(b"one") + record(b"") + record(b"\0" * 300))) == [b"one", b"", b"\0" * 300]


@pytest.mark.parametrize(
    "spoilt",
    [TWO[:5], TWO[:-1], b"\1" + TWO[1:], TWO[:12] + b"O" + TWO[13:]],
    ids=["head ends", "data ends", "length changed", "data changed"],
)
def test_damage_is_noticed(spoilt: bytes) -> None:
    with pytest.raises(ServingError) as caught:
        list(records(record(b"one") + spoilt))
    assert caught.value.code is Code.DATA_LOSS
