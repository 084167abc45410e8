"""Counters and histograms in Prometheus' text form.

By hand, because TensorFlow Serving's names (``:tensorflow:serving:request_count``, a counter without ``_total``)
are none that the Prometheus client library would write.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Sequence

# Model names come from clients, versions and paths from publications: without a bound a metric would grow for
# the life of the process. The label sets that were not touched for longest go first.
_MOST_SERIES = 2000

Labels = tuple[str, ...]


def exponential(first: float, factor: float, count: int) -> tuple[float, ...]:
    """Upper bounds of ``count`` buckets, each ``factor`` times the one before. There is always one more: +Inf."""
    return tuple(first * factor**step for step in range(count))


class Counter:
    """A number per label set that only grows. Safe to use from many threads."""

    def __init__(self, name: str, labels: Sequence[str]) -> None:
        self.name = name
        self._labels = tuple(labels)
        self._values: dict[Labels, float] = {}
        self._lock = threading.Lock()

    def add(self, labels: Labels, amount: float = 1) -> None:
        """Count ``amount`` more for the label values, given in the order of the labels' names."""
        with self._lock:
            self._values[labels] = self._values.pop(labels, 0) + amount
            if len(self._values) > _MOST_SERIES:
                del self._values[next(iter(self._values))]

    def total(self) -> float:
        """The sum over all label sets."""
        with self._lock:
            return sum(self._values.values())

    def render(self) -> list[str]:
        """Lines of the text form."""
        with self._lock:
            values = list(self._values.items())
        lines = [f"# TYPE {self.name} counter"]
        lines += [f"{self.name}{_braces(self._labels, labels)} {_number(value)}" for labels, value in values]
        return lines


class Histogram:
    """Counts of observations per label set, by size. Safe to use from many threads."""

    def __init__(self, name: str, labels: Sequence[str], bounds: Sequence[float]) -> None:
        self.name = name
        self._labels = tuple(labels)
        self._bounds = tuple(bounds)
        self._values: dict[Labels, tuple[list[int], list[float]]] = {}
        self._lock = threading.Lock()

    def observe(self, labels: Labels, value: float) -> None:
        """Note one observation."""
        with self._lock:
            series = self._series(labels)
            series[0][bisect_left(self._bounds, value)] += 1
            series[1][0] += value

    def add(self, labels: Labels, counts: Sequence[int], total: float) -> None:
        """Note many observations: how many fell into each bucket, the one without a bound included, and their sum."""
        with self._lock:
            series = self._series(labels)
            for index, count in enumerate(counts):
                series[0][index] += count
            series[1][0] += total

    def _series(self, labels: Labels) -> tuple[list[int], list[float]]:
        series = self._values.pop(labels, None) or ([0] * (len(self._bounds) + 1), [0.0])
        self._values[labels] = series
        if len(self._values) > _MOST_SERIES:
            del self._values[next(iter(self._values))]
        return series

    def render(self) -> list[str]:
        """Lines of the text form."""
        with self._lock:
            values = [(labels, list(counts), total[0]) for labels, (counts, total) in self._values.items()]
        lines = [f"# TYPE {self.name} histogram"]
        for labels, counts, total in values:
            below = 0
            for bound, count in zip([*(f"{one:g}" for one in self._bounds), "+Inf"], counts, strict=True):
                below += count
                braces = _braces((*self._labels, "le"), (*labels, bound))
                lines.append(f"{self.name}_bucket{braces} {below}")
            braces = _braces(self._labels, labels)
            lines += [f"{self.name}_sum{braces} {_number(total)}", f"{self.name}_count{braces} {below}"]
        return lines


def _braces(names: Labels, values: Labels) -> str:
    pairs = (f'{name}="{_escaped(value)}"' for name, value in zip(names, values, strict=True))
    return f"{{{','.join(pairs)}}}"


def _escaped(value: str) -> str:
    text = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return text.encode("utf-8", "replace").decode()  # a name from a URL may be no UTF-8


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else f"{value:.12g}"
