"""What is in a TFRecord file of ``tf.train.Example``, read without TensorFlow.

The framing is that of tensorflow/core/lib/io/record_writer.h: length (uint64), masked CRC-32C of it, the data, masked
CRC-32C of them. An Example is a protocol buffer of tensorflow/core/example/feature.proto.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

from shared.data_files.faults import invalid

EXAMINED = 1000  # examples whose features are looked into
CHECKED = 20  # of them, whose data's sum is checked; training checks them all
PREVIEW = 3
MAX_RECORD_BYTES = 2**30
MAX_FEATURES = 1000
_SHOWN = 8
_HEADER = struct.Struct("<QI")
_SUM = struct.Struct("<I")
_KINDS: dict[int, Literal["bytes", "float", "int64"]] = {1: "bytes", 2: "float", 3: "int64"}


def is_tfrecord(head: bytes) -> bool:
    """Whether a file that begins like this is one: the first length has the sum that follows it."""
    return len(head) >= _HEADER.size and _HEADER.unpack(head[: _HEADER.size])[1] == _masked(head[:8])


@dataclass(slots=True)
class _Feature:
    kind: str
    examples: int = 0
    fewest: int = 2**63
    most: int = 0
    low: float = math.inf
    high: float = -math.inf

    def described(self, examples: int) -> dict[str, Any]:
        shown: dict[str, Any] = {"kind": self.kind, "length": [self.fewest, self.most]}
        if self.examples < examples:
            shown["missing"] = examples - self.examples
        if self.kind != "bytes" and math.isfinite(self.low):
            shown |= {"min": self.low, "max": self.high}
        return shown


def inspect_tfrecord(path: Path) -> dict[str, Any]:
    """``{"compression", "records", "features": {name: {"kind", "length", ...}}, "examined", "preview"}``.

    ``length`` is the least and largest number of values in an example, of bytes the least and largest number of bytes.

    Raises:
        InvalidInput: naming the record that is broken.
    """
    with path.open("rb") as file:
        compressed = file.read(2) == b"\x1f\x8b"
    features: dict[str, _Feature] = {}
    preview: list[dict[str, Any]] = []
    count = 0
    with _opened(path, compressed=compressed) as file:
        for index, data in _records(file):
            count = index + 1
            if data is None:
                continue
            example = _parsed(data, index)
            for name, (kind, values) in example.items():
                _note(features, name, kind, values, index)
            if len(preview) < PREVIEW:
                preview.append({name: _shown(values) for name, (_, values) in list(example.items())[:50]})
    if not count:
        raise invalid("The file has no records.")
    examined = min(count, EXAMINED)
    return {
        "compression": "GZIP" if compressed else None,
        "records": count,
        "features": {name: found.described(examined) for name, found in sorted(features.items())},
        "examined": examined,
        "preview": preview,
    }


def _opened(path: Path, *, compressed: bool) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(path)) if compressed else path.open("rb")


def _records(file: IO[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """(index, data) of each record; of those after the first thousand the length alone is read."""
    index = 0
    try:
        while head := file.read(_HEADER.size):
            if len(head) < _HEADER.size or _HEADER.unpack(head)[1] != _masked(head[:8]):
                raise _broken(index)
            length = _HEADER.unpack(head)[0]
            if length > MAX_RECORD_BYTES:
                raise invalid(f"Record {index} is {length} bytes long; the limit is {MAX_RECORD_BYTES}.")
            if index < EXAMINED:
                data = file.read(length)
                tail = file.read(_SUM.size)
                if len(data) < length or len(tail) < _SUM.size:
                    raise _broken(index)
                if index < CHECKED and _SUM.unpack(tail)[0] != _masked(data):
                    raise _broken(index)
                yield index, data
            else:
                _skip(file, length + _SUM.size, index)
                yield index, None
            index += 1
    except (EOFError, zlib.error, gzip.BadGzipFile):
        raise _broken(index) from None


def _skip(file: IO[bytes], count: int, index: int) -> None:
    # the last byte is read, for seeking goes beyond a file's end without a word
    file.seek(count - 1, 1)
    if not file.read(1):
        raise _broken(index)


def _broken(index: int) -> Exception:
    return invalid(
        f"Record {index} is broken or cut short.", "Write the file again with tf.io.TFRecordWriter."
    )


def _note(features: dict[str, _Feature], name: str, kind: str, values: list[Any], index: int) -> None:
    found = features.setdefault(name, _Feature(kind))
    if len(features) > MAX_FEATURES:
        raise invalid(f"The examples have more than {MAX_FEATURES} features.")
    if found.kind != kind:
        raise invalid(f"The feature {name[:80]!r} is {found.kind} at first, but {kind} in record {index}.")
    found.examples += 1
    lengths = [len(value) for value in values] if kind == "bytes" else [len(values)]
    found.fewest, found.most = min(found.fewest, *lengths, 2**63), max(found.most, *lengths, 0)
    if kind != "bytes" and values:
        found.low, found.high = min(found.low, *values), max(found.high, *values)


def _shown(values: list[Any]) -> Any:
    shown: list[Any] = []
    for value in values[:_SHOWN]:
        if isinstance(value, bytes):
            text = value[:200].decode("utf-8", "replace")
            shown.append(text if len(value) <= 200 and text.isprintable() else f"{len(value)} bytes")
        else:
            shown.append(value if math.isfinite(value) else str(value))
    return shown + ([f"... {len(values) - _SHOWN} more"] if len(values) > _SHOWN else [])


# --- protocol buffers: the three messages that an Example is made of ------------------------------------------------


def _parsed(data: bytes, index: int) -> dict[str, tuple[str, list[Any]]]:
    """name -> (kind, values)."""
    found: dict[str, tuple[str, list[Any]]] = {}
    try:
        for _, features in _fields(data, 1):
            for _, entry in _fields(features, 1):
                parts = dict(_fields(entry, 1, 2))
                name = bytes(parts.get(1, b"")).decode()
                for number, values in _fields(parts.get(2, b""), *_KINDS):
                    found[name] = (_KINDS[number], _values(number, values))
    except (ValueError, IndexError, struct.error, UnicodeDecodeError):
        raise invalid(
            f"Record {index} is not a tf.train.Example.", "Only such records can be trained on."
        ) from None
    return found


def _fields(data: bytes, *wanted: int) -> Iterator[tuple[int, bytes]]:
    """Length-delimited fields of a message."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, wire = key >> 3, key & 7
        if wire == 2:
            size, place = _varint(data, place)
            if place + size > len(data):
                raise ValueError("cut short")
            if number in wanted:
                yield number, data[place : place + size]
            place += size
        elif wire == 0:
            _, place = _varint(data, place)
        elif wire in (1, 5):
            place += 8 if wire == 1 else 4
        else:
            raise ValueError("not a message")


def _values(number: int, data: bytes) -> list[Any]:
    if number == 1:
        return [value for _, value in _fields(data, 1)]
    found: list[Any] = []
    place = 0
    while place < len(data):  # packed or one by one, as the writer likes
        key, place = _varint(data, place)
        wire = key & 7
        if number == 2 and wire == 5:
            found.append(struct.unpack_from("<f", data, place)[0])
            place += 4
        elif number == 3 and wire == 0:
            value, place = _varint(data, place)
            found.append(_signed(value))
        elif wire == 2:
            size, place = _varint(data, place)
            part, place = data[place : place + size], place + size
            if number == 2:
                found += struct.unpack(f"<{len(part) // 4}f", part)
            else:
                inside = 0
                while inside < len(part):
                    value, inside = _varint(part, inside)
                    found.append(_signed(value))
        else:
            raise ValueError("not a list of values")
    return found


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("a number too long")


def _signed(value: int) -> int:
    return value - 2**64 if value >= 2**63 else value


# --- CRC-32C (Castagnoli), bit by bit reversed, as RFC 3720 has it ---------------------------------------------------


def _table() -> tuple[int, ...]:
    found = []
    for number in range(256):
        value = number
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
        found.append(value)
    return tuple(found)


_TABLE = _table()


def _masked(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ (value >> 8)
    value ^= 0xFFFFFFFF
    return ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF
