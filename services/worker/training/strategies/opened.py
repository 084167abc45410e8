"""A strategy ready to be used, whatever its kind."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf


@dataclass(frozen=True, slots=True)
class OpenStrategy:
    """What the steps need to know about a strategy.

    Attributes:
        kind: as the spec names it.
        strategy: TensorFlow's, or None where there is one replica and no need for one.
        facts: what the job shows about it (devices, how gradients are summed).
    """

    kind: str
    strategy: tf.distribute.Strategy | None
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def replicas(self) -> int:
        """Copies of the model that train in step."""
        return int(self.strategy.num_replicas_in_sync) if self.strategy is not None else 1

    def scope(self) -> AbstractContextManager[Any]:
        """Where variables are created."""
        context: AbstractContextManager[Any] = (
            self.strategy.scope() if self.strategy is not None else nullcontext()
        )
        return context
