"""What a job tells while it trains: where it stands, the points of its curves, each epoch's numbers."""

from __future__ import annotations

import time

from services.worker.protocol import EpochEnded, MetricsLogged, Progress
from services.worker.training.data.record import Array
from services.worker.training.emitter import Emitter

PROGRESS_SECONDS = 0.25
POINTS_PER_EPOCH = 100
POINTS_PER_JOB = 10_000


class Reporter:
    """Turns steps done into events, not too many of them. Speed and ETA count this attempt's steps only."""

    def __init__(self, emit: Emitter, *, epochs: int, steps: int) -> None:
        self._emit = emit
        self._epochs, self._steps = epochs, steps
        self._stride = max(1, -(-steps // POINTS_PER_EPOCH), -(-steps * epochs // POINTS_PER_JOB))
        self._last = 0.0
        self._done, self._busy = 0, 0.0
        self._epoch_started = time.monotonic()

    def epoch_began(self, epoch: int, step: int) -> None:
        """``epoch`` counts from 0; ``step`` steps of it were done by an earlier attempt."""
        self._epoch_started = time.monotonic()
        self._progress(epoch, step, {})

    def chunk_done(
        self, epoch: int, step: int, losses: Array, logs: dict[str, float], seconds: float
    ) -> None:
        """``len(losses)`` steps ended at step ``step`` of ``epoch`` after ``seconds``."""
        self._done += len(losses)
        self._busy += seconds
        first = step - len(losses) + 1
        for number in range(-(-first // self._stride) * self._stride, step + 1, self._stride):
            values = {"batch_loss": float(losses[number - first])}
            if number + self._stride > step:  # the means are known where the chunk ended
                values |= {f"batch_{name}": value for name, value in logs.items() if name != "loss"}
            self._emit(MetricsLogged(epoch=epoch + 1, step=epoch * self._steps + number, values=values))
        if time.monotonic() - self._last >= PROGRESS_SECONDS or step >= self._steps:
            self._progress(epoch, step, logs)

    def epoch_ended(self, epoch: int, total: int, logs: dict[str, float]) -> None:
        """All of ``epoch`` is done, validation included."""
        seconds = time.monotonic() - self._epoch_started
        self._emit(EpochEnded(epoch=epoch + 1, step=total, metrics=logs, seconds=round(seconds, 3)))
        numbers = ", ".join(f"{name} {value:.4f}" for name, value in logs.items())
        print(f"epoch {epoch + 1}/{self._epochs}: {numbers} ({seconds:.1f} s)", flush=True)  # noqa: T201 - job log

    def _progress(self, epoch: int, step: int, logs: dict[str, float]) -> None:
        self._last = time.monotonic()
        speed = self._done / self._busy if self._busy > 0 and self._done else None
        left = (self._epochs - epoch) * self._steps - step
        self._emit(
            Progress(
                epoch=epoch + 1,
                epochs=self._epochs,
                step=step,
                steps=self._steps,
                eta_seconds=round(left / speed, 1) if speed else None,
                steps_per_second=round(speed, 2) if speed else None,
                metrics=logs,
            )
        )
