"""Small TFRecord files without TensorFlow: length, checksum, bytes, checksum, again and again.

https://www.tensorflow.org/tutorials/load_data/tfrecord#tfrecords_format_details
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache

from services.serving.errors import Code, ServingError

_HEAD = struct.Struct("<QI")
_CHECKSUM = struct.Struct("<I")
_POLYNOMIAL = 0x82F63B78  # Castagnoli's, reversed
_MASK = 0xA282EAD8
_32 = 0xFFFFFFFF


def records(content: bytes) -> Iterator[bytes]:
    """The records of a file's ``content``.

    Raises:
        ServingError: DATA_LOSS: it ends early, or a checksum is wrong.
    """
    view, at = memoryview(content), 0
    while at < len(view):
        head = view[at : at + _HEAD.size]
        if len(head) < _HEAD.size:
            raise ServingError(Code.DATA_LOSS, f"truncated record at {at}")
        size, checksum = _HEAD.unpack(head)
        begin = at + _HEAD.size
        if masked(head[:8]) != checksum:
            raise ServingError(Code.DATA_LOSS, f"corrupted record at {at}")
        end = begin + size
        if end + _CHECKSUM.size > len(view):
            raise ServingError(Code.DATA_LOSS, f"truncated record at {at}")
        data = view[begin:end]
        if masked(data) != _CHECKSUM.unpack(view[end : end + _CHECKSUM.size])[0]:
            raise ServingError(Code.DATA_LOSS, f"corrupted record at {at}")
        yield bytes(data)
        at = end + _CHECKSUM.size


def masked(data: bytes | memoryview) -> int:
    """CRC-32C, turned round and shifted as TFRecord files have it."""
    table, value = _table(), _32
    for byte in data:
        value = table[(value ^ byte) & 0xFF] ^ (value >> 8)
    value ^= _32
    return (((value >> 15) | (value << 17)) + _MASK) & _32


@cache
def _table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = (value >> 1) ^ (_POLYNOMIAL if value & 1 else 0)  # noqa: PLW2901 - it is worked on
        table.append(value)
    return tuple(table)
