"""A strategy ready to be used, whatever its kind."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import tensorflow as tf

from services.worker.training.stopping import StopSignal
from services.worker.training.strategies.slices import Slices


@dataclass(frozen=True)
class OpenStrategy:
    """What the steps need to know about a strategy. Kinds that span processes override ``slices`` and ``gather``.

    Attributes:
        kind: as the spec names it.
        strategy: TensorFlow's, or None where there is one replica and no need for one.
        devices: names of the logical devices that compute steps.
        facts: what else the job shows about it.
    """

    kind: str
    strategy: tf.distribute.Strategy | None = None
    devices: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def replicas(self) -> int:
        """Copies of the model that train in step."""
        return int(self.strategy.num_replicas_in_sync) if self.strategy is not None else 1

    @property
    def slices(self) -> Slices:
        """How global batches are dealt."""
        return Slices(self.replicas)

    def scope(self) -> AbstractContextManager[Any]:
        """Where model and optimizer create their variables."""
        context: AbstractContextManager[Any] = (
            self.strategy.scope() if self.strategy is not None else nullcontext()
        )
        return context

    def dealing(self, batch: int, fingerprint: str) -> OpenStrategy:
        """The same, for global batches of at most ``batch`` rows of the data that ``fingerprint`` stands for."""
        return self

    def agree(self, steps: int, done: int, stop: StopSignal) -> int:
        """How many steps come next, with all processes that train in step: of the chief's ``steps``. ``done``, the
        place at which this one stands, must be everybody's. Sets ``stop.requested`` in all, if one was told to stop.
        """
        return steps

    def gather(self, per_replica: Any) -> Any:
        """Values [rows, ...] of all replicas as one tensor, in the replicas' order; in a traced function."""
        if self.strategy is None:
            return per_replica
        return tf.concat(self.strategy.experimental_local_results(per_replica), axis=0)
