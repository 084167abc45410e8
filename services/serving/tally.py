"""Requests that ended well, counted by what they have in common, until somebody wants the sums.

Noting one costs a few additions; a dozen counters and histograms would cost more than a small model's prediction.
A process that only answers predictions hands its sums over whole (``Tally.take``).
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from services.serving.metrics import exponential

MICROSECONDS = exponential(10, 1.8, 33)
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


@dataclass(frozen=True, slots=True)
class Key:
    """What the requests of one sum share."""

    model: str
    version: int
    signature: str
    api: str
    entrypoint: str


def _zeros(bounds: tuple[float, ...]) -> list[int]:
    return [0] * (len(bounds) + 1)


@dataclass(slots=True)
class Sums:
    """Of some requests: their number, bytes, and times (seconds) with how many fell into which bucket."""

    requests: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    latency: float = 0.0
    latency_seconds: list[int] = field(default_factory=lambda: _zeros(SECONDS))
    latency_microseconds: list[int] = field(default_factory=lambda: _zeros(MICROSECONDS))
    runtime: float = 0.0  # within the graph
    runtime_seconds: list[int] = field(default_factory=lambda: _zeros(SECONDS))
    runtime_microseconds: list[int] = field(default_factory=lambda: _zeros(MICROSECONDS))

    def note(self, latency: float, runtime: float, bytes_in: int, bytes_out: int) -> None:
        """One more request."""
        self.requests += 1
        self.bytes_in += bytes_in
        self.bytes_out += bytes_out
        self.latency += latency
        self.latency_seconds[bisect_left(SECONDS, latency)] += 1
        self.latency_microseconds[bisect_left(MICROSECONDS, latency * 1e6)] += 1
        self.runtime += runtime
        self.runtime_seconds[bisect_left(SECONDS, runtime)] += 1
        self.runtime_microseconds[bisect_left(MICROSECONDS, runtime * 1e6)] += 1

    def as_json(self) -> list[Any]:
        """For ``from_json`` in another process."""
        return [getattr(self, name) for name in self.__slots__]

    @classmethod
    def from_json(cls, values: list[Any]) -> Sums:
        """What ``as_json`` gave."""
        return cls(*values)


class Tally:
    """Sums by key. Safe to use from many threads."""

    def __init__(self) -> None:
        self._sums: dict[Key, Sums] = {}
        self._lock = threading.Lock()

    def note(self, key: Key, latency: float, runtime: float, bytes_in: int, bytes_out: int) -> None:
        """One more request of that kind; times in seconds."""
        with self._lock:
            sums = self._sums.get(key)
            if sums is None:
                sums = self._sums[key] = Sums()
            sums.note(latency, runtime, bytes_in, bytes_out)

    def take(self) -> Iterator[tuple[Key, Sums]]:
        """What has been noted since the last call."""
        with self._lock:
            taken, self._sums = self._sums, {}
        yield from taken.items()
