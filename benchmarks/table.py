"""What a measurement gives: a titled table."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


class Row(tuple[str, ...]):
    """Cells of one row."""

    def __new__(cls, *cells: str) -> Row:
        return super().__new__(cls, cells)


@dataclass(frozen=True)
class Table:
    """A measurement's result."""

    title: str
    about: str
    columns: Sequence[str]
    rows: Sequence[Row]

    def markdown(self) -> str:
        lines = [
            f"## {self.title}",
            "",
            self.about,
            "",
            _line(self.columns),
            _line(["---"] * len(self.columns)),
        ]
        return "\n".join([*lines, *map(_line, self.rows), ""])


@dataclass(frozen=True)
class Tables:
    """Several tables of one measurement."""

    tables: Sequence[Table]

    def markdown(self) -> str:
        return "\n".join(table.markdown() for table in self.tables)


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that ``percent`` of the values do not exceed (nearest rank)."""
    ranked = sorted(values)
    return ranked[max(0, math.ceil(percent / 100 * len(ranked)) - 1)]


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def mebibytes(size: float) -> str:
    return f"{size / 2**20:.0f} MiB"
