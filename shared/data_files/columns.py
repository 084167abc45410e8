"""What one column of a table holds, learned a batch of cells at a time in bounded memory."""

from __future__ import annotations

import math
import operator
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

MAX_CLASSES = 50
LONGEST_VALUE = 200
MAX_COUNTED = 2_000  # distinct values of a column
TOP_VALUES = 10
SAMPLE = 10_000
QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)


class Sample:
    """At most ``SAMPLE`` values drawn evenly from a stream: Li's algorithm L (1994), with a seed of its own."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self._random = random.Random(0)  # noqa: S311 - the same file must have the same statistics
        self._weight = 1.0
        self._next = 0  # position in the stream of the next value to take
        self._seen = 0

    def take(self, numbers: Sequence[float]) -> None:
        """Add values of the stream."""
        room = SAMPLE - len(self.values)
        if room > 0:
            self.values += numbers[:room]
            if len(self.values) == SAMPLE:
                self._next = SAMPLE - 1
                self._skip()
        end = self._seen + len(numbers)
        while len(self.values) == SAMPLE and self._next < end:
            if self._next >= self._seen:
                self.values[self._random.randrange(SAMPLE)] = numbers[self._next - self._seen]
            self._skip()
        self._seen = end

    def _skip(self) -> None:
        self._weight *= math.exp(math.log(self._random.random()) / SAMPLE)
        self._next += math.floor(math.log(self._random.random()) / math.log1p(-self._weight)) + 1

    def quantiles(self) -> dict[str, float]:
        """By level, as text; exact while the stream is no longer than the sample."""
        ordered = sorted(self.values)
        return {f"{level:g}": ordered[round(level * (len(ordered) - 1))] for level in QUANTILES}


@dataclass(slots=True)
class ColumnSummary:
    """What one column turned out to hold. ``detailed`` False keeps to kind, gaps and range."""

    name: str
    detailed: bool = True
    kind: Literal["empty", "integer", "number", "text"] = "empty"
    missing: int = 0
    not_finite: int = 0
    count: int = 0
    numbers: int = 0  # of cells, before the first text
    low: float = math.inf
    high: float = -math.inf
    _values: Counter[str] | None = field(default_factory=Counter)
    _origin: float = 0.0  # sums are of differences from the first number, so that large ones cost no digits
    _sum: float = 0.0
    _squares: float = 0.0
    _sample: Sample = field(default_factory=Sample)

    def take(self, cells: Sequence[str]) -> None:
        """Add the cells of some rows; by the batch, since it is the loops inside C that make this fast."""
        full = [cell for cell in cells if cell and not cell.isspace()]
        self.missing += len(cells) - len(full)
        if not full:
            return
        self.count += len(full)
        if self.detailed and self._values is not None:
            self._values.update(full)
            if len(self._values) > MAX_COUNTED:
                self._values = None
        if self.kind == "text":
            return
        try:
            numbers = list(map(float, full))
        except ValueError:
            self._become_text(full)
            return
        if "_" in "".join(full):  # 1_000 is a number to Python alone
            self._become_text(full)
            return
        self._take_numbers(numbers)

    def _become_text(self, full: Sequence[str]) -> None:
        self.kind = "text"
        self.numbers += sum(map(_is_number, full))

    def _take_numbers(self, numbers: list[float]) -> None:
        self.numbers += len(numbers)
        if self.kind != "number":
            self.kind = "integer" if all(map(float.is_integer, numbers)) else "number"
        if not math.isfinite(sum(numbers)):
            finite = list(filter(math.isfinite, numbers))
            self.not_finite += len(numbers) - len(finite)
            numbers = finite
        if not numbers:
            return
        if math.isinf(self.low):
            self._origin = numbers[0]
        self.low = min(self.low, *numbers, math.inf)
        self.high = max(self.high, *numbers, -math.inf)
        if self.detailed:
            origin = self._origin
            differences = [number - origin for number in numbers]
            self._sum += sum(differences)
            self._squares += sum(map(operator.mul, differences, differences))
            self._sample.take(numbers)

    def described(self) -> dict[str, Any]:
        """``name``, ``kind`` (integer, number, text, empty), ``missing``; of numbers ``min``, ``max``, ``not_finite``;
        in detail also ``count``, ``mean``, ``std``, ``quantiles``, ``distinct`` (null: more than 2,000), ``values`` of
        columns with at most 50, and the ``top`` ones of others.
        """
        shown: dict[str, Any] = {"name": self.name, "kind": self.kind, "missing": self.missing}
        numeric = self.kind in ("integer", "number")
        if numeric and math.isfinite(self.low) and math.isfinite(self.high):
            whole = self.kind == "integer"
            shown["min"] = int(self.low) if whole else self.low
            shown["max"] = int(self.high) if whole else self.high
        if self.kind == "number" and self.not_finite:
            shown["not_finite"] = self.not_finite
        if self.kind == "text":
            shown["number_share"] = round(self.numbers / max(1, self.count), 4)
        if self.detailed and self.count:
            shown |= self._details(numeric)
        return shown

    def _details(self, numeric: bool) -> dict[str, Any]:
        found: dict[str, Any] = {"count": self.count}
        finite = self.count - self.not_finite
        if numeric and finite:
            mean = self._sum / finite
            found["mean"] = self._origin + mean
            found["std"] = math.sqrt(max(0.0, self._squares / finite - mean * mean))
            found["quantiles"] = self._sample.quantiles()
        found["distinct"] = None if self._values is None else len(self._values)
        if self._values is not None and max(map(len, self._values)) <= LONGEST_VALUE:
            if len(self._values) <= MAX_CLASSES:
                found["values"] = dict(self._values)
            else:
                found["top"] = dict(self._values.most_common(TOP_VALUES))
        return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
