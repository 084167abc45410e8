"""What the columns of a table mean: how the raw value in a cell, or in a request, becomes a number of the matrix."""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np

from services.worker.training.data.moments import mean_and_variance
from services.worker.training.data.record import Array, RowFile, Rows, TrainingData

UNKNOWN = 0  # the code of every value that training has not seen, or that was too rare


@dataclass(frozen=True, slots=True)
class Column:
    """One column of the matrix.

    Attributes:
        name: in the file.
        alias: of the exported model's input: the name, as far as TensorFlow takes it.
        kind: numeric and boolean columns hold their value, categorical ones a code.
        values: of a categorical column, text or int; ``values[i]`` has the code ``i + 1``. The empty text stands for
            a missing value, where there were some.
        missing: cells of the file that are empty.
        fill: what a missing number becomes; None if there were none.
        encoding: what a code becomes inside the model.
        dimensions: of an embedding.
    """

    name: str
    alias: str
    kind: Literal["numeric", "boolean", "categorical"]
    values: tuple[str, ...] | tuple[int, ...] = ()
    missing: int = 0
    fill: float | None = None
    encoding: Literal["one_hot", "embedding"] = "one_hot"
    dimensions: int = 0

    @property
    def dtype(self) -> str:
        """Of the exported model's input."""
        if self.kind == "categorical":
            return "int64" if self.values and isinstance(self.values[0], int) else "string"
        return "bool" if self.kind == "boolean" else "float32"

    @property
    def meaning(self) -> tuple[Any, ...]:
        """What another table must share for its numbers to mean the same; gaps and what fills them may differ."""
        return self.name, self.kind, self.values, self.encoding, self.dimensions

    def facts(self) -> dict[str, Any]:
        """What the job and the export say about it."""
        found: dict[str, Any] = {
            "name": self.name,
            "input": self.alias,
            "kind": self.kind,
            "dtype": self.dtype,
        }
        if self.kind == "categorical":
            found |= {"values": len(self.values), "encoding": self.encoding}
        if self.missing:
            found |= {"missing": self.missing}
        if self.fill is not None:
            found |= {"fill": self.fill}
        return found

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON data, all of it."""
        return {**asdict(self), "values": list(self.values)}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Column:
        """What ``as_dict`` gave.

        Raises:
            TypeError: it is not that.
        """
        return cls(**{**data, "values": tuple(data["values"])})


def aliases(names: Sequence[str]) -> list[str]:
    """Input names for columns: letters, digits and ``_``, beginning with a letter, no word of Python, each once."""
    found: list[str] = []
    for name in names:
        plain = re.sub(r"[^A-Za-z0-9_]", "_", name)
        if not re.match(r"[A-Za-z]", plain) or keyword.iskeyword(plain) or plain == "self":
            plain = f"c_{plain}"
        unique, number = plain, 2
        while unique in found:
            unique, number = f"{plain}_{number}", number + 1
        found.append(unique)
    return found


def filled(data: TrainingData) -> TrainingData:
    """``data`` with missing numbers, which are NaN, replaced by the mean of the training rows."""
    table = data.table
    if table is None or not any(column.missing and column.kind == "numeric" for column in table):
        return data
    mean = mean_and_variance(data.train.x)[0].astype(np.float32)
    table = tuple(
        replace(column, fill=float(mean[index])) if column.missing and column.kind == "numeric" else column
        for index, column in enumerate(table)
    )
    parts = {
        name: _filled(rows, mean) if rows is not None else None
        for name, rows in (("train", data.train), ("validation", data.validation), ("test", data.test))
    }
    return replace(data, table=table, **parts)  # type: ignore[arg-type]  # the train part is never None


def _filled(rows: Rows, mean: Array) -> Rows:
    if isinstance(rows.x, RowFile):
        return Rows(rows.x.viewed(fill=mean), rows.y)
    return Rows(np.where(np.isnan(rows.x), mean, rows.x), rows.y)


def raw_rows(table: Sequence[Column], x: Array) -> dict[str, Array]:
    """Rows of the matrix, float32 [n, columns], as a client would send them: alias -> values [n]."""
    found: dict[str, Array] = {}
    for index, column in enumerate(table):
        values = x[:, index]
        if column.kind == "categorical":
            text = column.dtype == "string"
            names = np.asarray(["\x00unseen" if text else -(2**62), *column.values], object)
            chosen = names[values.astype(np.int64)]
            found[column.alias] = chosen if text else chosen.astype(np.int64)
        else:
            found[column.alias] = values.astype(bool) if column.kind == "boolean" else values
    return found
