"""CSV files with text, booleans or gaps: read twice, a block at a time, into a matrix of numbers and codes.

The first reading finds out what each column holds and counts its values; the second writes the matrix, numeric columns
first. Neither keeps more than a block in memory, so a file may be larger than that; the matrix goes to memory or disk.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
import pyarrow.compute as pc  # type: ignore[import-untyped]
from pyarrow import csv as arrow

from services.worker.training.data.csv_labels import Labels
from services.worker.training.data.record import Array
from services.worker.training.data.table import Column, aliases
from services.worker.training.failures import data_invalid
from shared.specs import CsvDataset
from shared.specs.dataset import ColumnSpec

BLOCK_BYTES = 4 * 2**20
MAX_VALUES = 2_000_000  # distinct ones that are counted, in all columns
_BOOLEANS = {"true": 1.0, "false": 0.0}
_LARGEST = float(np.finfo(np.float32).max)


@dataclass
class _Seen:
    """What one column turned out to hold."""

    name: str
    asked: ColumnSpec
    counted: bool
    rows: int = 0
    missing: int = 0
    numbers: int = 0
    whole: bool = True  # all numbers are written as whole numbers are
    first_missing: int | None = None
    first_text: int | None = None
    values: Counter[str] = field(default_factory=Counter)

    def take(self, cells: Any) -> None:
        """Add the cells of a block, a string array without nulls."""
        gaps = _gaps(cells)
        missing = pc.sum(gaps).as_py() or 0
        if missing and self.first_missing is None:
            self.first_missing = self.rows + int(np.flatnonzero(gaps.to_numpy(zero_copy_only=False))[0])
        self.missing += missing
        numbers = _floats(cells, gaps)
        known = ~np.isnan(numbers)
        self.numbers += int(known.sum())
        text = ~known & ~gaps.to_numpy(zero_copy_only=False)
        if text.any():
            if self.first_text is None:
                self.first_text = self.rows + int(np.flatnonzero(text)[0])
            if not self.counted:
                raise _CountFromTheStart(self.name)
        if self.counted:
            for pair in cells.filter(pc.invert(gaps)).value_counts():
                self.values[pair["values"].as_py()] += pair["counts"].as_py()
        self.rows += len(cells)


class _CountFromTheStart(Exception):
    """A column has text after all; its values must be counted from the first row on."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name


@dataclass(frozen=True)
class Matrix:
    """How to read a file: columns in the matrix' order, and the rows there are."""

    table: tuple[Column, ...]
    rows: int


def examine(spec: CsvDataset, path: Path, features: Sequence[str]) -> Matrix:
    """Decide what each column is.

    Raises:
        TrainingFailed: data_invalid, naming line and column.
        pyarrow.ArrowException: the file is not in order; a reader that knows lines can say where.
    """
    counted = {name for name in features if spec.column(name).type in ("boolean", "categorical")}
    while True:
        seen = [_Seen(name, spec.column(name), name in counted) for name in features]
        try:
            for block in _blocks(spec, path, features):
                for column in seen:
                    column.take(_cells(block, column.name))
                _bounded(seen)
            break
        except _CountFromTheStart as again:
            counted.add(again.name)
    if not seen[0].rows:
        raise data_invalid("the file has a header but no rows")
    names = dict(zip(features, aliases(features), strict=True))
    columns = [_decided(spec, path, each, names[each.name]) for each in seen]
    columns.sort(key=lambda column: column.kind == "categorical")  # stable
    return Matrix(tuple(columns), seen[0].rows)


def _bounded(seen: list[_Seen]) -> None:
    if sum(len(column.values) for column in seen) <= MAX_VALUES:
        return
    worst = max(seen, key=lambda column: len(column.values))
    raise data_invalid(
        f"the columns have more than {MAX_VALUES} different texts in all, {worst.name!r} the most of them: "
        f"{len(worst.values)} in the first {worst.rows} rows",
        "Leave it out with dataset.features: a column in which every row differs teaches nothing.",
    )


def read(spec: CsvDataset, path: Path, matrix: Matrix, take: Callable[[Array], None]) -> Labels:
    """Hand the matrix, float32 [n, columns] with NaN for missing numbers, to ``take`` in blocks; returns the labels.

    Raises:
        TrainingFailed: data_invalid: a label is missing, or there are too many different ones.
    """
    labels = Labels(spec.label)
    readers = [_reader(column) for column in matrix.table]
    for block in _blocks(spec, path, [*(column.name for column in matrix.table), spec.label]):
        x = np.empty((block.num_rows, len(readers)), np.float32)
        for index, (column, reader) in enumerate(zip(matrix.table, readers, strict=True)):
            x[:, index] = reader(_cells(block, column.name))
        take(x)
        cells = _cells(block, spec.label)
        gaps = _gaps(cells).to_numpy(zero_copy_only=False)
        if gaps.any():
            line = _line(spec, path, len(labels) + int(np.flatnonzero(gaps)[0]))
            raise data_invalid(f"line {line}: the label column {spec.label!r} is empty")
        labels.take(cells)
    return labels


def _blocks(spec: CsvDataset, path: Path, columns: Sequence[str]) -> Iterator[Any]:
    with arrow.open_csv(
        path,
        read_options=arrow.ReadOptions(block_size=BLOCK_BYTES, use_threads=False),
        parse_options=arrow.ParseOptions(delimiter=spec.delimiter, newlines_in_values=True),
        convert_options=arrow.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()),
            include_columns=list(columns),
            null_values=[],
            strings_can_be_null=False,
        ),
    ) as reader:
        yield from reader


def _cells(block: Any, name: str) -> Any:
    return block.column(block.schema.get_field_index(name))


def _gaps(cells: Any) -> Any:
    return pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(cells)), 0)


def _floats(cells: Any, gaps: Any) -> Array:
    """float64 [n]; NaN for what is no number, or not a finite one."""
    plain = pc.utf8_trim_whitespace(cells)
    full = pc.if_else(gaps, pa.scalar(None, pa.string()), plain)
    try:
        numbers = pc.cast(full, pa.float64()).to_numpy(zero_copy_only=False)
    except pa.ArrowException:
        numbers = np.asarray([_float(text) for text in full.to_pylist()])
    found: Array = np.where(np.isfinite(numbers), numbers, np.nan)
    return found


def _float(text: str | None) -> float:
    try:
        return float(text) if text is not None and "_" not in text else np.nan
    except ValueError:
        return np.nan


def _decided(spec: CsvDataset, path: Path, seen: _Seen, alias: str) -> Column:
    asked, kind = seen.asked, seen.asked.type
    impute = asked.missing == "impute"
    full = seen.rows - seen.missing
    if seen.missing and not impute:
        raise data_invalid(
            f"line {_line(spec, path, seen.first_missing or 0)}, column {seen.name!r}: the value is missing (as in "
            f"{seen.missing} of {seen.rows} rows)",
            "Fill in or drop missing values, leave the column out with dataset.features, or set dataset.missing to "
            "'impute'.",
        )
    if not full:
        raise data_invalid(
            f"the column {seen.name!r} is empty in all rows", "Leave it out with dataset.features."
        )
    text = seen.first_text is not None
    booleans = text and {value.strip().lower() for value in seen.values} <= set(_BOOLEANS)
    if kind == "auto":
        kind = "boolean" if booleans else "categorical" if text and 2 * seen.numbers < full else "numeric"
    if kind == "boolean":
        if not booleans:
            raise data_invalid(
                f"the column {seen.name!r} is declared boolean, but holds {next(iter(seen.values))[:80]!r}",
                "Booleans are written true and false.",
            )
        if not seen.missing:
            return Column(seen.name, alias, "boolean")
        kind = "categorical"  # true, false and a third value for gaps
    if kind == "numeric":
        if text:
            _not_a_number(spec, path, seen)
        return Column(seen.name, alias, "numeric", missing=seen.missing)
    return _categorical(seen, alias)


def _categorical(seen: _Seen, alias: str) -> Column:
    asked, full = seen.asked, seen.rows - seen.missing
    if asked.type == "auto" and len(seen.values) > asked.max_values and 2 * len(seen.values) > full:
        raise data_invalid(
            f"the column {seen.name!r} has {len(seen.values)} different texts in {full} rows: names or free text, "
            "which is not learned from",
            f"Leave it out with dataset.features, or declare it: dataset.columns {{{seen.name!r}: "
            "{'type': 'categorical'}}.",
        )
    common = sorted(seen.values.items(), key=lambda pair: (-pair[1], pair[0]))[: asked.max_values]
    names = sorted(name for name, _ in common)
    values: tuple[str, ...] | tuple[int, ...] = tuple(names)
    if seen.missing:
        values = ("", *names)
    elif all(_is_whole(name) for name in seen.values):
        values = tuple(sorted(int(name) for name in names))
    width = asked.dimensions or min(256, round(4 * (len(values) + 1) ** 0.25))
    return Column(
        seen.name,
        alias,
        "categorical",
        values=values,
        missing=seen.missing,
        encoding=asked.encoding,
        dimensions=width if asked.encoding == "embedding" else 0,
    )


def _is_whole(text: str) -> bool:
    """Whether it is an int64 as Python writes it: '07' and '1.0' stay text."""
    try:
        return str(int(text)) == text and abs(int(text)) < 2**62
    except ValueError:
        return False


def _reader(column: Column) -> Callable[[Any], Array]:
    """A function from the cells of a block to numbers, float [n]."""
    if column.kind == "boolean":
        return lambda cells: pc.equal(pc.utf8_lower(pc.utf8_trim_whitespace(cells)), "true").to_numpy(
            zero_copy_only=False
        )
    if column.kind == "numeric":
        return lambda cells: _floats(cells, _gaps(cells))
    values = pa.array([str(value) for value in column.values], pa.string())

    def codes(cells: Any) -> Array:
        texts = pc.if_else(_gaps(cells), "", cells) if column.missing else cells
        found: Array = pc.fill_null(pc.index_in(texts, value_set=values), -1).to_numpy() + 1
        return found

    return codes


def _not_a_number(spec: CsvDataset, path: Path, seen: _Seen) -> NoReturn:
    row = seen.first_text or 0
    line, text = _cell(spec, path, row, seen.name)
    try:
        float(text)
        raise data_invalid(
            f"line {line}, column {seen.name!r}: {text.strip()!r} is not a finite number",
            "Fill in or drop missing values first.",
        )
    except ValueError:
        raise data_invalid(
            f"line {line}, column {seen.name!r}: {text[:80]!r} is not a number",
            "Mend it, leave the column out with dataset.features, or have the column read as text: dataset.columns "
            f"{{{seen.name!r}: {{'type': 'categorical'}}}}.",
        ) from None


def _line(spec: CsvDataset, path: Path, row: int) -> int:
    return _cell(spec, path, row, spec.label)[0]


def _cell(spec: CsvDataset, path: Path, row: int, name: str) -> tuple[int, str]:
    """(line number, text) of a cell, by the row's number."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=spec.delimiter)
        at = next(reader).index(name)
        full = (cells for cells in reader if cells)
        for _ in range(row):
            next(full)
        cells = next(full)
        return reader.line_num, cells[at]
