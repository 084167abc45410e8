"""Does a csv job fit the columns of its file? Asked at submission, of what is known of the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from shared.errors import InvalidInput
from shared.specs import CsvDataset
from shared.specs.dataset import ColumnSpec


def check_columns(spec: CsvDataset, info: Mapping[str, Any]) -> None:
    """``info`` is the file's description: names alone, or with what the columns hold.

    Raises:
        InvalidInput: with the field to mend.
    """
    names = [column["name"] for column in info["columns"]]
    delimiter = info.get("delimiter", spec.delimiter)
    if delimiter != spec.delimiter:
        raise InvalidInput(
            f"The file's columns are separated by {delimiter!r}, not by {spec.delimiter!r}.",
            field="dataset.delimiter",
            hint=f'Set "delimiter" to {delimiter!r}.',
        )
    if spec.label not in names:
        raise _no_column(spec.label, names, "dataset.label")
    for index, name in enumerate(spec.features or ()):
        if name not in names:
            raise _no_column(name, names, f"dataset.features.{index}")
        if name == spec.label:
            raise InvalidInput(
                f"The label column {name!r} can't be a feature too.", field=f"dataset.features.{index}"
            )
    for name in spec.columns:
        if name not in names:
            raise _no_column(name, names, f"dataset.columns.{name}")
    chosen = spec.features or [name for name in names if name != spec.label]
    if not chosen:
        raise InvalidInput("The file has no column beside the label.", field="dataset.csv")
    if info.get("rows") == 0:
        raise InvalidInput("The file has a header, but no rows.", code="dataset_empty", field="dataset.csv")
    columns = {column["name"]: column for column in info["columns"]}
    for name in chosen:
        _check_feature(columns[name], spec.column(name))
    if missing := columns[spec.label].get("missing", 0):
        raise InvalidInput(
            f"The label column {spec.label!r} has no value in {missing} rows.",
            code="values_missing",
            field="dataset.label",
            hint="Fill these cells or leave these rows out, and upload the file again.",
        )


def _check_feature(column: Mapping[str, Any], asked: ColumnSpec) -> None:
    name, kind = column["name"], column.get("kind")
    # text is categories, unless most cells are numbers: then a cell is wrong, or the column needs a word
    numbers_meant = asked.type == "numeric" or (asked.type == "auto" and column.get("number_share", 0) >= 0.5)
    if kind == "text" and numbers_meant:
        raise InvalidInput(
            f"The feature column {name!r} has text among its numbers.",
            code="feature_not_numeric",
            field="dataset.features",
            hint=f'Mend the file, leave the column out, or set "columns": {{"{name}": {{"type": "categorical"}}}}.',
        )
    if asked.type == "boolean" and kind in ("integer", "number"):
        raise InvalidInput(
            f"The feature column {name!r} is declared boolean, but holds numbers.",
            field=f"dataset.columns.{name}.type",
            hint="Booleans are written true and false; read numbers as numeric or categorical.",
        )
    gaps = column.get("missing", 0)
    if kind == "empty" or (gaps and asked.missing != "impute"):
        raise InvalidInput(
            f"The feature column {name!r} has no value in {gaps} rows.",
            code="values_missing",
            field="dataset.features",
            hint="Name the columns to use in 'features'."
            if kind == "empty"
            else "Fill these cells or leave these rows out, name the columns to use in 'features', or set "
            "dataset.missing to 'impute'.",
        )
    if column.get("not_finite", 0) and asked.type != "categorical":
        raise InvalidInput(
            f"The feature column {name!r} has NaN or infinity in {column['not_finite']} rows.",
            code="values_missing",
            field="dataset.features",
            hint="Leave such cells empty, or name the columns to use in 'features'.",
        )


def _no_column(name: str, names: list[str], where: str) -> InvalidInput:
    shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    return InvalidInput(
        f"The file has no column {name[:80]!r}.",
        code="column_not_found",
        field=where,
        hint=f"Its columns are: {shown}.",
    )
