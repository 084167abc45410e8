"""Columns, rows and statistics of a csv file, read once and by the batch."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from shared.data_files.columns import LONGEST_VALUE, ColumnSummary
from shared.data_files.faults import invalid
from shared.errors import InvalidInput

PREVIEW_ROWS = 5
BATCH_CELLS = 50_000
MAX_COLUMNS = 20_000
# Wide files, such as images by pixel, would be described at greater length than they have.
MAX_COLUMNS_WITH_VALUES = 200
DELIMITERS = ",;\t|"


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
    """``{"delimiter", "columns": [...], "rows", "preview"}``; for what a column has see ``ColumnSummary``.

    Reads the file once, in memory that does not grow with it. In files with more than 200 columns each has no more than
    its kind, gaps and range.

    Raises:
        InvalidInput: with the line of the first row that has too few or too many cells.
    """
    with _text(path) as file:
        delimiter = _delimiter_of(_first_line(file))
        file.seek(0)
        rows = _rows(file, delimiter)
        _, header = next(rows, (1, []))
        names = _checked_header(header)
        detailed = len(names) <= MAX_COLUMNS_WITH_VALUES
        columns = [ColumnSummary(name, detailed=detailed) for name in names]
        width, count = len(names), 0
        preview: list[list[str]] = []
        at_once = max(1, BATCH_CELLS // width)
        while batch := list(itertools.islice(rows, at_once)):
            _refuse_nul(batch)
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


def _refuse_nul(batch: list[tuple[int, list[str]]]) -> None:
    """U+0000 is in no text that people write, and databases refuse it."""
    for line, row in batch:
        if any("\0" in cell for cell in row):
            raise invalid(
                f"Line {line} has a NUL character (U+0000).", "Write the file anew as text in UTF-8."
            )


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
        "A csv file must be UTF-8. Other data go as npz, a zip or tar of images, or TFRecord; models as .keras or .h5.",
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
