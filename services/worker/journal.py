"""Turns a training program's events into what the store records, batched so that training is never slowed."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

from services.worker.protocol import (
    CheckpointWritten,
    EpochEnded,
    MetricsLogged,
    Noted,
    Progress,
    StageEntered,
    TrainingEvent,
    Warned,
)
from shared.errors import Unavailable
from shared.jobs import MetricPoint
from shared.store import Report

FLUSH_SECONDS = 0.4
MAX_PENDING_POINTS = 50_000
_LOWER_IS_BETTER = ("loss", "error", "mae", "mse", "mape", "msle", "crossentropy", "divergence", "hinge")


class Journal:
    """Collects events and hands them to ``write`` at most every 0.4 s, at once when a stage or epoch changes.

    A store that does not answer costs nothing: what is pending is kept and written when it is back.
    Not thread-safe: belongs to one supervisor.
    """

    def __init__(
        self, write: Callable[[Report], None], *, metrics: dict[str, Any], run: dict[str, Any]
    ) -> None:
        self._write = write
        self._latest: dict[str, Any] = dict(metrics.get("latest", {}))
        self._best: dict[str, Any] = dict(metrics.get("best", {}))
        self._run = dict(run)
        self._pending = Report()
        self._points: list[MetricPoint] = []
        self._dirty = False
        self._urgent = False
        self._next_flush = 0.0

    @property
    def run(self) -> dict[str, Any]:
        """Facts about the run so far."""
        return dict(self._run)

    def add(self, event: TrainingEvent) -> None:
        """Take one event; those that end a program are the supervisor's, and ignored here."""
        pending = self._pending
        self._dirty = True
        match event:
            case StageEntered():
                pending.stage = event.stage
                self._urgent = True
            case Progress():
                pending.progress = _progress(event)
            case EpochEnded():
                self._note_epoch(event)
                self._urgent = True
            case MetricsLogged():
                self._add_points(event.epoch, event.step, event.values)
            case CheckpointWritten():
                pending.events.append(("checkpoint", event.model_dump(exclude={"event"})))
            case Noted():
                self._run = _merged(self._run, event.data)
                pending.run = self._run
            case Warned():
                pending.events.append(("warning", event.model_dump(exclude={"event"})))
                self._urgent = True
            case _:
                return

    def note(self, stage: str | None = None, **facts: Any) -> None:
        """What the supervisor itself has to say."""
        if stage is not None:
            self._pending.stage = stage
        if facts:
            self._run = _merged(self._run, facts)
            self._pending.run = self._run
        self._dirty = self._urgent = True

    def flush(self, *, force: bool = False) -> None:
        """Write what is pending if it is time.

        Raises:
            StaleClaim: the store refused it; this attempt is over.
        """
        now = time.monotonic()
        if not self._dirty or not (force or self._urgent or now >= self._next_flush):
            return
        self._pending.points = self._points
        self._next_flush = now + FLUSH_SECONDS
        try:
            self._write(self._pending)
        except Unavailable:
            self._urgent = False  # try again at the ordinary pace
            return
        self._pending, self._points = Report(), []
        self._dirty = self._urgent = False

    def _note_epoch(self, event: EpochEnded) -> None:
        self._add_points(event.epoch, event.step, event.metrics)
        for name, value in event.metrics.items():
            if not math.isfinite(value):
                continue
            best = self._best.get(name)
            if best is None or (value < best["value"]) == lower_is_better(name):
                self._best[name] = {"value": value, "epoch": event.epoch}
        self._latest.update(event.metrics)
        self._pending.metrics = {"latest": dict(self._latest), "best": dict(self._best)}
        self._pending.events.append(("epoch", event.model_dump(exclude={"event"})))

    def _add_points(self, epoch: int, step: int, values: dict[str, float]) -> None:
        now = time.time()
        self._points += [
            MetricPoint(name, step, epoch, value if math.isfinite(value) else None, now)
            for name, value in values.items()
        ]
        del self._points[:-MAX_PENDING_POINTS]


def lower_is_better(name: str) -> bool:
    """Whether less of a metric is better, by its name: losses and errors yes, all else no."""
    return any(part in name.lower() for part in _LOWER_IS_BETTER)


def _progress(event: Progress) -> dict[str, Any]:
    done = (event.epoch - 1) * event.steps + event.step
    return {
        **event.model_dump(exclude={"event"}),
        "fraction": round(min(1.0, done / max(1, event.epochs * event.steps)), 4),
    }


def _merged(into: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    result = dict(into)
    for key, value in more.items():
        known = result.get(key)
        result[key] = {**known, **value} if isinstance(known, dict) and isinstance(value, dict) else value
    return result
