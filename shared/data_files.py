"""What is in an uploaded file: csv columns and rows, or npz arrays. Needs neither NumPy nor memory for the data.

``python -m shared.data_files FILE`` prints the same as JSON, so that a service can have a large file read by a
process of its own.
"""

from __future__ import annotations

import ast
import csv
import itertools
import json
import math
import re
import struct
import sys
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TextIO

from shared.errors import InvalidInput, ModelyardError

PREVIEW_ROWS = 5
BATCH_CELLS = 50_000
MAX_COLUMNS = 20_000
MAX_ARRAYS = 1000
MAX_CLASSES = 50
# Wide files, such as images by pixel, would be described at greater length than they have.
MAX_COLUMNS_WITH_VALUES = 200
LONGEST_VALUE = 200
DELIMITERS = ",;\t|"
_ZIP_MAGIC = b"PK"
_NPY_MAGIC = b"\x93NUMPY"
_MAX_NPY_HEADER = 64 * 1024
_NPY_KINDS = {"b": "bool", "i": "int", "u": "uint", "f": "float", "c": "complex", "S": "bytes", "U": "str"}
_DTYPE = re.compile(r"[<>|=]([biufcSUVOmM])(\d*)(?:\[.*\])?")


def invalid(message: str, hint: str | None = None) -> InvalidInput:
    """The error for a file that can't be used."""
    return InvalidInput(message, code="data_invalid", field="file", hint=hint)


def kind_of(path: Path) -> Literal["csv", "npz"]:
    """By the content, whatever the name says.

    Raises:
        InvalidInput: the file is empty, or a format that jobs can't read.
    """
    with path.open("rb") as file:
        head = file.read(8)
    if not head:
        raise invalid("The file is empty.")
    if head.startswith(_ZIP_MAGIC):
        return "npz"
    if head.startswith(_NPY_MAGIC):
        raise invalid(
            "This is a single .npy array.",
            "Put inputs and targets into one archive: numpy.savez('data.npz', x_train=..., y_train=...).",
        )
    if head.startswith((b"\x1f\x8b", b"\x89HDF", b"PAR1", b"\x28\xb5\x2f\xfd", b"BZh")):
        raise invalid(
            "This is a compressed or binary file, neither csv text nor an npz archive.",
            "Unpack it, or convert it to csv or npz.",
        )
    return "csv"


def inspect(path: Path) -> tuple[Literal["csv", "npz"], dict[str, Any]]:
    """(kind, description) of a file.

    Raises:
        InvalidInput: with what is wrong and where.
    """
    kind = kind_of(path)
    return kind, inspect_csv(path) if kind == "csv" else inspect_npz(path)


# --- csv ---------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Column:
    """What one column turned out to hold."""

    name: str
    kind: Literal["empty", "integer", "number", "text"] = "empty"
    missing: int = 0
    not_finite: int = 0
    low: float = math.inf
    high: float = -math.inf
    classes: Counter[str] | None = None

    def take(self, cells: Sequence[str]) -> None:
        """Add the cells of some rows; by the batch, since it is the loops inside C that make this fast."""
        full = [cell for cell in cells if cell and not cell.isspace()]
        self.missing += len(cells) - len(full)
        if not full:
            return
        if self.classes is not None:
            self.classes.update(full)
            if len(self.classes) > MAX_CLASSES or max(map(len, self.classes)) > LONGEST_VALUE:
                self.classes = None
        if self.kind == "text":
            return
        try:
            numbers = list(map(float, full))
        except ValueError:
            self.kind = "text"
            return
        if "_" in "".join(full):  # 1_000 is a number to Python alone
            self.kind = "text"
            return
        if self.kind != "number":
            self.kind = "integer" if all(map(float.is_integer, numbers)) else "number"
        if not math.isfinite(sum(numbers)):
            finite = list(filter(math.isfinite, numbers))
            self.not_finite += len(numbers) - len(finite)
            numbers = finite
        self.low = min(self.low, *numbers, math.inf)
        self.high = max(self.high, *numbers, -math.inf)

    def described(self) -> dict[str, Any]:
        shown: dict[str, Any] = {"name": self.name, "kind": self.kind, "missing": self.missing}
        if self.kind in ("integer", "number") and math.isfinite(self.low) and math.isfinite(self.high):
            whole = self.kind == "integer"
            shown["min"] = int(self.low) if whole else self.low
            shown["max"] = int(self.high) if whole else self.high
        if self.kind == "number" and self.not_finite:
            shown["not_finite"] = self.not_finite
        if self.classes:
            shown["values"] = dict(self.classes)
        return shown


def csv_header(path: Path, delimiter: str) -> dict[str, Any]:
    """Column names alone: ``{"columns": [{"name": ...}]}``.

    Raises:
        InvalidInput: there is no usable header.
    """
    with _text(path) as file:
        rows = _rows(file, delimiter)
        _, header = next(rows, (1, []))
        return {"columns": [{"name": name} for name in _checked_header(header)]}


def inspect_csv(path: Path) -> dict[str, Any]:
    """``{"delimiter", "columns": [{"name", "kind", "missing", "min", "max", "not_finite",
    "values"}], "rows", "preview"}``.

    Reads the file once. ``kind`` is integer, number, text or empty; ``values`` counts the distinct values of
    columns with at most 50 of them, in files with at most 200 columns.

    Raises:
        InvalidInput: with the line of the first row that has too few or too many cells.
    """
    with _text(path) as file:
        delimiter = _delimiter_of(_first_line(file))
        file.seek(0)
        rows = _rows(file, delimiter)
        _, header = next(rows, (1, []))
        names = _checked_header(header)
        count_values = len(names) <= MAX_COLUMNS_WITH_VALUES
        columns = [_Column(name, classes=Counter() if count_values else None) for name in names]
        width, count = len(names), 0
        preview: list[list[str]] = []
        at_once = max(1, BATCH_CELLS // width)
        while batch := list(itertools.islice(rows, at_once)):
            table = [row for line, row in batch if row and _is_whole(row, width, line)]
            preview += [
                [cell[:LONGEST_VALUE] for cell in row] for row in table[: PREVIEW_ROWS - len(preview)]
            ]
            count += len(table)
            for column, cells in zip(columns, zip(*table, strict=True), strict=False):
                column.take(cells)
    return {
        "delimiter": delimiter,
        "columns": [column.described() for column in columns],
        "rows": count,
        "preview": preview,
    }


def _is_whole(row: list[str], width: int, line: int) -> bool:
    if len(row) != width:
        raise invalid(
            f"Line {line} has {len(row)} cells, but the header has {width}.",
            "Every row needs the header's number of cells; quote cells that contain the delimiter.",
        )
    return True


def _text(path: Path) -> TextIO:
    return path.open(encoding="utf-8-sig", newline="")


def _first_line(file: TextIO) -> str:
    try:
        return file.readline(1_000_000)
    except UnicodeDecodeError as error:
        raise _not_text(1, error) from None


def _delimiter_of(header: str) -> str:
    counts = {mark: header.count(mark) for mark in DELIMITERS}
    best = max(DELIMITERS, key=lambda mark: counts[mark])
    return best if counts[best] else ","


def _rows(file: TextIO, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """(line number, cells) of each row."""
    reader = csv.reader(file, delimiter=delimiter, strict=True)
    begins = 1
    try:
        for row in reader:
            yield begins, row
            begins = reader.line_num + 1
    except csv.Error as error:
        raise invalid(f"Line {begins} is not csv: {error}.", "Check the quotes in this line.") from None
    except UnicodeDecodeError as error:
        raise _not_text(begins, error) from None


def _not_text(line: int, error: UnicodeDecodeError) -> InvalidInput:
    return invalid(
        f"Line {line} or one soon after is not UTF-8 text (byte {error.object[error.start]:#04x}).",
        "Save the file as csv in UTF-8, or upload an npz archive.",
    )


def _checked_header(header: list[str]) -> list[str]:
    if not header:
        raise invalid("The first line, the header with the column names, is empty.")
    if len(header) > MAX_COLUMNS:
        raise invalid(f"The header has {len(header)} columns; the limit is {MAX_COLUMNS}.")
    seen: set[str] = set()
    for number, name in enumerate(header, 1):
        if not name.strip():
            raise invalid(
                f"Column {number} has no name in the header.",
                "Name every column; pandas writes its unnamed index unless told to_csv(index=False).",
            )
        if len(name) > LONGEST_VALUE or not name.isprintable():
            raise invalid(f"The name of column {number} is too long, or has characters that can't be shown.")
        if name in seen:
            raise invalid(f"Two columns are named {name[:80]!r}.", "Give every column a name of its own.")
        seen.add(name)
    if all(_is_number(name) for name in header):
        raise invalid(
            "The first line has numbers only: the header with the column names is missing.",
            "Add a first line with a name for each column.",
        )
    return header


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# --- npz ---------------------------------------------------------------------------------------------------------


def inspect_npz(path: Path) -> dict[str, Any]:
    """``{"arrays": [{"name", "shape", "dtype"}]}``, from the archive's directory and the arrays' headers alone.

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
    if size + math.prod(shape) * item != member.file_size:
        raise invalid(f"The array {name[:80]!r} is cut short or has bytes too many.")
    return {"name": name, "shape": list(shape), "dtype": dtype}


def _npy_header(file: IO[bytes], name: str) -> tuple[str, int]:
    """(text of the header, bytes before the data)."""
    start = file.read(8)
    if not start.startswith(_NPY_MAGIC) or len(start) < 8:
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


def main(arguments: list[str]) -> int:
    """Print ``{"kind", "info"}``, or ``{"error"}`` with exit code 1."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m shared.data_files FILE\n")
        return 2
    try:
        kind, info = inspect(Path(arguments[0]))
    except ModelyardError as error:
        sys.stdout.write(json.dumps({"error": error.as_dict()}))
        return 1
    sys.stdout.write(json.dumps({"kind": kind, "info": info}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
