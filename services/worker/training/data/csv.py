"""CSV files: a header row, feature columns, one label column.

A fast reader (pyarrow, a million rows in about a second) takes files of plain numbers. Others are examined first, and
read column by column (``csv_table``), which can say which line and which column to mend.
"""

from __future__ import annotations

import csv
import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from services.worker.training.data import checks, decoded, placement
from services.worker.training.data.record import Array, RowArray, Rows, Task, TrainingData
from services.worker.training.failures import data_invalid, shorten
from shared.specs import CsvDataset

if TYPE_CHECKING:
    from services.worker.training.data.csv_labels import Labels
    from services.worker.training.data.csv_table import Matrix
    from services.worker.training.data.table import Column


def load(
    spec: CsvDataset, path: Path, cache_dir: Path, *, fingerprint: str, loss: str | None
) -> TrainingData:
    """All rows of the file, checked; text labels become classes in alphabetical order.

    Raises:
        TrainingFailed: data_invalid, naming line and column; disk_full.
    """
    features = _features(spec, _header(spec, path))
    table: tuple[Column, ...] | None = None
    x: RowArray
    # a matrix takes no more than its text, as a rule
    in_memory = placement.kept_in_memory(spec.cache, path.stat().st_size)
    plain = spec.missing == "refuse" and not spec.columns
    found = _read_fast(spec, path, features) if plain and in_memory else None
    if found is not None:
        x, labels = found
    else:
        x, labels, table = _read_table(spec, path, features, cache_dir, fingerprint, in_memory=in_memory)
        features = [column.name for column in table]
        if all(column.kind == "numeric" for column in table) and plain:
            table = None
    y, task, classes = _targets(spec, labels, loss)
    return TrainingData(
        train=Rows(x, y),
        validation=None,
        test=None,
        task=task,
        input_kind="tabular",
        classes=classes,
        columns=features,
        fingerprint=fingerprint,
        source=f"csv {spec.csv}",
        table=table,
    )


def _read_table(
    spec: CsvDataset, path: Path, features: list[str], cache_dir: Path, fingerprint: str, *, in_memory: bool
) -> tuple[RowArray, Labels, tuple[Column, ...]]:
    """The matrix in memory or on disk, the labels, and what the columns are."""
    import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types

    from services.worker.training.data import csv_table

    try:
        matrix = csv_table.examine(spec, path, features)
        if in_memory:
            x, labels = _read_to_memory(spec, path, matrix)
        else:
            x, labels = _read_to_disk(spec, path, matrix, cache_dir, fingerprint)
        return x, labels, matrix.table
    except (pa.ArrowException, UnicodeDecodeError) as error:
        _find_fault(spec, path)
        raise data_invalid(f"the file can't be read as csv: {shorten(str(error), 300)}") from error


def _read_to_memory(spec: CsvDataset, path: Path, matrix: Matrix) -> tuple[RowArray, Labels]:
    from services.worker.training.data import csv_table

    x = np.empty((matrix.rows, len(matrix.table)), np.float32)
    filled = 0

    def take(block: Array) -> None:
        nonlocal filled
        x[filled : filled + len(block)] = block
        filled += len(block)

    return x, csv_table.read(spec, path, matrix, take)


def _read_to_disk(
    spec: CsvDataset, path: Path, matrix: Matrix, cache_dir: Path, fingerprint: str
) -> tuple[RowArray, Labels]:
    from services.worker.training.data import csv_table

    options = hashlib.sha256(repr((fingerprint, spec.delimiter, spec.label, matrix)).encode()).hexdigest()
    folder = cache_dir / "csv" / options[:32]
    kept = decoded.read(folder)
    if kept is None:
        decoded.require_room(folder, matrix.rows * len(matrix.table) * 4)
        with decoded.Writer(folder) as writer:
            labels = csv_table.read(spec, path, matrix, lambda x: writer.append(x=x))
            writer.finish({})
        kept = decoded.must_read(folder)
    else:
        labels = csv_table.read(spec, path, matrix, lambda _: None)
    return kept[0]["x"], labels


def _header(spec: CsvDataset, path: Path) -> list[str]:
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        names = next(csv.reader(file, delimiter=spec.delimiter), [])
    if not names:
        raise data_invalid("the file is empty; a header row with the column names is needed")
    twins = {name for name in names if names.count(name) > 1}
    if twins:
        raise data_invalid(f"line 1: the column name {sorted(twins)[0]!r} stands in the header twice")
    return names


def _features(spec: CsvDataset, header: list[str]) -> list[str]:
    known = ", ".join(header[:20]) + (", ..." if len(header) > 20 else "")
    if spec.label not in header:
        raise data_invalid(
            f"line 1: there is no column {spec.label!r} for the label; the columns are {known}",
            "Name the target column in dataset.label, and check dataset.delimiter if all names ran together.",
        )
    features = spec.features or [name for name in header if name != spec.label]
    for name in features:
        if name not in header:
            raise data_invalid(f"line 1: there is no feature column {name!r}; the columns are {known}")
        if name == spec.label:
            raise data_invalid(f"the label column {name!r} is also named as a feature")
    if not features:
        raise data_invalid(f"there is no feature column beside the label {spec.label!r}")
    return features


def _read_fast(spec: CsvDataset, path: Path, features: list[str]) -> tuple[Array, Labels] | None:
    """float32 [N, F] and the labels; None if a closer look is needed."""
    import pyarrow as pa
    from pyarrow import csv as arrow

    from services.worker.training.data.csv_labels import Labels

    try:
        table = arrow.read_csv(
            path,
            parse_options=arrow.ParseOptions(delimiter=spec.delimiter),
            convert_options=arrow.ConvertOptions(
                column_types=dict.fromkeys(features, pa.float32()) | {spec.label: pa.string()},
                include_columns=[*features, spec.label],
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
    except (pa.ArrowException, OSError):
        return None
    if not table.num_rows or any(table.column(name).null_count for name in table.column_names):
        return None
    x = np.empty((table.num_rows, len(features)), np.float32)
    for index, name in enumerate(features):
        x[:, index] = table.column(name).to_numpy()
    if not np.isfinite(x).all():
        return None
    labels = Labels(spec.label)
    for cells in table.column(spec.label).chunks:
        labels.take(cells)
    return x, labels


def _find_fault(spec: CsvDataset, path: Path) -> None:
    """Read line by line, for the first thing that is wrong.

    Raises:
        TrainingFailed: data_invalid with the line; none if Python's reader finds nothing amiss.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = _lines(csv.reader(file, delimiter=spec.delimiter))
        _, header = next(rows)
        for line, row in rows:
            if row and len(row) != len(header):
                raise data_invalid(f"line {line} has {len(row)} fields where the header has {len(header)}")


def _lines(reader: Iterator[list[str]]) -> Iterator[tuple[int, list[str]]]:
    """Each row with the number of the line it ends on."""
    for _ in itertools.count():
        try:
            row = next(reader)
        except StopIteration:
            return
        except (csv.Error, UnicodeDecodeError) as error:
            line = getattr(reader, "line_num", 0) + 1
            raise data_invalid(
                f"line {line} can't be read: {error}", "Save the file as UTF-8 text."
            ) from error
        yield getattr(reader, "line_num", 0), row


def _targets(spec: CsvDataset, labels: Labels, loss: str | None) -> tuple[Array, Task, list[str] | None]:
    numbers = labels.numbers()
    task: Task
    if spec.task != "auto":
        task = spec.task
    elif numbers is None:
        task = "classification"
    else:
        checks.finite(spec.label, numbers)
        task = checks.task_of(numbers, loss)
    if task == "regression":
        if numbers is None:
            raise data_invalid(
                f"the label column {spec.label!r} holds text such as {labels.first_text!r}: not a regression target"
            )
        return checks.number_targets(spec.label, numbers), task, None
    if numbers is None:
        names, y = labels.texts()
    else:
        values, y = np.unique(numbers, return_inverse=True)
        if len(values) > max(checks.FEW_CLASSES, len(labels) // 2):
            raise data_invalid(
                f"the label column {spec.label!r} has {len(values)} different numbers in {len(labels)} rows",
                "For numbers to predict set dataset.task to regression.",
            )
        names = [f"{value:g}" for value in values]
    if len(names) < 2:
        raise data_invalid(f"all rows have the same label {names[0]}: there is nothing to tell apart")
    return y.astype(np.int32), task, names
