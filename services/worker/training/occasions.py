"""When a checkpoint is due: by epoch, by steps, by time; and never twice at the same place."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from services.worker.training.checkpoints import Position
from shared.specs import CheckpointSpec


@dataclass
class Occasions:
    """Asked at step boundaries; ``written`` is where the newest checkpoint stands, and whether training was over."""

    spec: CheckpointSpec
    written: tuple[Position, bool] | None = None
    _at: float = field(default_factory=time.monotonic)

    def note(self, position: Position, complete: bool) -> None:
        """A checkpoint lies on disk."""
        self.written = (position, complete)
        self._at = time.monotonic()

    def steps_to_next(self, total: int) -> int | None:
        """Steps from ``total`` to the next checkpoint, where they are counted."""
        every = self.spec.every_steps
        return every - total % every if every else None

    def at_step(self, total: int) -> bool:
        """Whether one is due after ``total`` steps. When it is taken changes nothing in what is trained."""
        if self.spec.every_steps:
            return total % self.spec.every_steps == 0
        if self.spec.every_seconds:
            return time.monotonic() - self._at >= self.spec.every_seconds
        return False

    @property
    def at_epochs(self) -> bool:
        """Whether each epoch's end is an occasion."""
        return self.spec.every == "epoch"
