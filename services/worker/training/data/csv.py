"""CSV files: a header row, numeric feature columns, one label column.

A fast reader (pyarrow, a million rows in about a second) takes files that are in order. One that is not is read
again, slowly, by a reader that can say which line and which column to mend.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import numpy as np

from services.worker.training.data import checks
from services.worker.training.data.record import Array, Rows, Task, TrainingData
from services.worker.training.failures import data_invalid
from shared.specs import CsvDataset

_LARGEST = float(np.finfo(np.float32).max)


def load(spec: CsvDataset, path: Path, *, fingerprint: str, loss: str | None) -> TrainingData:
    """All rows of the file, checked; text labels become classes in alphabetical order.

    Raises:
        TrainingFailed: data_invalid, naming line and column.
    """
    features = _features(spec, _header(spec, path))
    x, labels = _read_fast(spec, path, features) or _read_slow(spec, path, features)
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
    )


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


def _read_fast(spec: CsvDataset, path: Path, features: list[str]) -> tuple[Array, Array] | None:
    """float32 [N, F] and the labels, as float64 or text [N]; None if the slow reader must have a look."""
    try:
        import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types
        from pyarrow import csv as arrow
    except ImportError:
        return None
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
    labels = table.column(spec.label)
    try:
        return x, labels.cast(pa.float64()).to_numpy()
    except pa.ArrowException:
        return x, np.asarray(labels.to_pylist(), dtype=np.str_)


def _read_slow(spec: CsvDataset, path: Path, features: list[str]) -> tuple[Array, Array]:
    """As ``_read_fast``, with Python's own reader, which knows lines.

    Raises:
        TrainingFailed: for the first thing that is wrong.
    """
    x: list[list[float]] = []
    labels: list[str] = []
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.reader(file, delimiter=spec.delimiter)
        rows = _lines(reader)
        _, header = next(rows)
        where = [header.index(name) for name in features]
        label_at = header.index(spec.label)
        for line, row in rows:
            if not row:
                continue
            if len(row) != len(header):
                raise data_invalid(f"line {line} has {len(row)} fields where the header has {len(header)}")
            x.append([_number(row[index], line, name) for index, name in zip(where, features, strict=True)])
            if not row[label_at].strip():
                raise data_invalid(f"line {line}: the label column {spec.label!r} is empty")
            labels.append(row[label_at])
    if not x:
        raise data_invalid("the file has a header but no rows")
    texts = np.asarray(labels, dtype=np.str_)
    try:
        return np.asarray(x, np.float32), texts.astype(np.float64)
    except ValueError:
        return np.asarray(x, np.float32), texts


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


def _number(text: str, line: int, column: str) -> float:
    try:
        value = float(text)
    except ValueError:
        _bad_number(text, line, column)
    if not abs(value) <= _LARGEST:
        raise data_invalid(
            f"line {line}, column {column!r}: {text.strip()!r} is not a finite number",
            "Fill in or drop missing values first.",
        )
    return value


def _bad_number(text: str, line: int, column: str) -> NoReturn:
    if not text.strip():
        raise data_invalid(
            f"line {line}, column {column!r}: the value is missing",
            "Fill in or drop missing values, or leave the column out with dataset.features.",
        ) from None
    raise data_invalid(
        f"line {line}, column {column!r}: {text[:80]!r} is not a number",
        "Encode text as numbers, or leave the column out with dataset.features.",
    ) from None


def _targets(spec: CsvDataset, labels: Array, loss: str | None) -> tuple[Array, Task, list[str] | None]:
    numeric = labels.dtype.kind == "f"
    task: Task
    if spec.task != "auto":
        task = spec.task
    elif not numeric:
        task = "classification"
    else:
        checks.finite(spec.label, labels)
        task = checks.task_of(labels, loss)
    if task == "regression":
        if not numeric:
            text = next(item for item in labels.tolist() if not _is_number(item))
            raise data_invalid(
                f"the label column {spec.label!r} holds text such as {text!r}: not a regression target"
            )
        return checks.number_targets(spec.label, labels), task, None
    values, y = np.unique(labels, return_inverse=True)
    if len(values) < 2:
        raise data_invalid(f"all rows have the same label {values[0]!s}: there is nothing to tell apart")
    if numeric and len(values) > max(checks.FEW_CLASSES, len(labels) // 2):
        raise data_invalid(
            f"the label column {spec.label!r} has {len(values)} different numbers in {len(labels)} rows",
            "For numbers to predict set dataset.task to regression.",
        )
    names = [f"{value:g}" if numeric else str(value) for value in values]
    return y.astype(np.int32), task, names


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
