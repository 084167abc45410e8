"""Arrays of an npz archive, from its directory and the arrays' beginnings alone."""

from __future__ import annotations

import ast
import math
import re
import struct
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

from shared.data_files.faults import invalid

MAX_ARRAYS = 1000
NPY_MAGIC = b"\x93NUMPY"
_MAX_NPY_HEADER = 64 * 1024
_NPY_KINDS = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex", "S": "bytes", "U": "str"}
SHOWN_VALUES = 8
_LONGEST_SHOWN = 4096  # bytes of a value
_STRUCT_LETTERS = {
    "bool": "?",
    "float16": "e",
    "float32": "f",
    "float64": "d",
    **{f"int{width}": letter for width, letter in ((8, "b"), (16, "h"), (32, "i"), (64, "q"))},
    **{f"uint{width}": letter for width, letter in ((8, "B"), (16, "H"), (32, "I"), (64, "Q"))},
}
_DTYPE = re.compile(r"[<>|=]([biufcSUVOmM])(\d*)(?:\[.*\])?")


def inspect_npz(path: Path) -> dict[str, Any]:
    """``{"arrays": [{"name", "shape", "dtype", "first"}]}``, without reading more than the arrays' beginnings.

    ``first`` has the first few values as they lie in the file, null for NaN and infinity.

    Raises:
        InvalidInput: a broken archive, or an array that only pickle could load.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if len(members) > MAX_ARRAYS:
                raise invalid(f"The archive has {len(members)} members; the limit is {MAX_ARRAYS}.")
            arrays = [_array(archive, member) for member in members if not member.is_dir()]
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        NotImplementedError,
        struct.error,
        RuntimeError,
    ) as error:
        raise invalid(
            f"The npz archive is broken or cut short: {error}.",
            "Write it again with numpy.savez, and upload it again.",
        ) from None
    if not arrays:
        raise invalid("The archive has no arrays.")
    return {"arrays": arrays}


def _array(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> dict[str, Any]:
    if not member.filename.endswith(".npy"):
        raise invalid(
            f"The archive has {member.filename[:80]!r}, which is not a NumPy array.",
            "numpy.savez writes archives that hold arrays only.",
        )
    name = member.filename.removesuffix(".npy")
    with archive.open(member) as file:
        header, size = _npy_header(file, name)
        shape, dtype, item = _shape_and_dtype(header, name)
        count = min(math.prod(shape), SHOWN_VALUES) if item <= _LONGEST_SHOWN else 0
        head = file.read(item * count)
    if size + math.prod(shape) * item != member.file_size:
        raise invalid(f"The array {name[:80]!r} is cut short or has bytes too many.")
    return {"name": name, "shape": list(shape), "dtype": dtype, "first": _values(head, dtype, item, header)}


def _values(head: bytes, dtype: str, item: int, header: str) -> list[Any]:
    """The values in ``head``, of ``item`` bytes each."""
    if not item:
        return []
    raw = [head[at : at + item] for at in range(0, len(head), item)]
    order = ">" if re.search(r"'descr':\s*'>", header) else "<"
    if dtype == "str":
        encoding = "utf-32-be" if order == ">" else "utf-32-le"
        return [text.decode(encoding, "replace").rstrip("\0").replace("\0", " ")[:80] for text in raw]
    if dtype == "bytes":
        return [text.rstrip(b"\0").decode("latin-1").replace("\0", " ")[:80] for text in raw]
    letter = _STRUCT_LETTERS.get(dtype)
    if letter is None:  # complex numbers, long doubles
        return []
    values = [struct.unpack(order + letter, one)[0] for one in raw]
    return [None if isinstance(value, float) and not math.isfinite(value) else value for value in values]


def _npy_header(file: IO[bytes], name: str) -> tuple[str, int]:
    """(text of the header, bytes before the data)."""
    start = file.read(8)
    if not start.startswith(NPY_MAGIC) or len(start) < 8:
        raise invalid(f"The member {name[:80]!r} is not a NumPy array.")
    length_format = "<H" if start[6] == 1 else "<I"
    raw = file.read(struct.calcsize(length_format))
    (length,) = struct.unpack(length_format, raw)
    if length > _MAX_NPY_HEADER:
        raise invalid(f"The header of the array {name[:80]!r} is {length} bytes long.")
    return file.read(length).decode("latin-1"), 8 + len(raw) + length


def _shape_and_dtype(header: str, name: str) -> tuple[tuple[int, ...], str, int]:
    try:
        fields = ast.literal_eval(header.strip())
        shape, descr = fields["shape"], fields["descr"]
        sound = isinstance(shape, tuple) and all(type(size) is int and size >= 0 for size in shape)
    except (ValueError, SyntaxError, KeyError, TypeError, MemoryError, RecursionError):
        sound, shape, descr = False, (), ""
    if not sound:
        raise invalid(f"The header of the array {name[:80]!r} can't be read.")
    found = _DTYPE.fullmatch(descr) if isinstance(descr, str) else None
    letter = found.group(1) if found else ""
    if letter == "O":
        raise invalid(
            f"The array {name[:80]!r} holds Python objects, which only pickle could load; that would run code.",
            "Convert it to numbers or text, for example with array.astype('float32').",
        )
    if found is None or letter not in _NPY_KINDS:
        raise invalid(
            f"The array {name[:80]!r} has the dtype {str(descr)[:80]}, which can't be trained on.",
            "Convert it to numbers.",
        )
    width = int(found.group(2) or 0)
    item = width * 4 if letter == "U" else width
    plain = letter in "bSU"
    return shape, _NPY_KINDS[letter] if plain else f"{_NPY_KINDS[letter]}{width * 8}", item
