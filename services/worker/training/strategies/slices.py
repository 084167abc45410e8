"""Which rows of a global batch each replica takes: contiguous slices, in the replicas' order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import tensorflow as tf


@dataclass(frozen=True, slots=True)
class Slices:
    """How a global batch is dealt to ``replicas`` replicas.

    Slices are as equal as whole rows allow. A batch with fewer rows than replicas goes to each replica whole, and
    each counts for its share: kernels such as the convolution's gradient don't take a batch of no rows, and padding
    would show in batch normalisation and in metrics.

    Attributes:
        replicas: in all processes.
        first: the first replica of this process.
        here: replicas in this process; None for all.
    """

    replicas: int = 1
    first: int = 0
    here: int | None = None

    def of(self, replica: Any, total: Any) -> tuple[Any, Any]:
        """(begin, end) of ``replica`` in a batch of ``total`` rows (integer scalars of one type)."""
        begin = total * replica // self.replicas
        end = total * (replica + 1) // self.replicas
        short = total < self.replicas
        return tf.where(short, tf.zeros_like(begin), begin), tf.where(short, total, end)

    def share(self, replica: Any, total: Any) -> Any:
        """What a mean over ``replica``'s rows counts for in the mean over the batch, float32; they add up to 1."""
        begin, end = self.of(replica, total)
        rows = tf.cast(end - begin, tf.float32)
        return rows / tf.cast(tf.where(total < self.replicas, total * self.replicas, total), tf.float32)

    def local(self, rows: Any) -> Any:
        """The part of ``rows`` (a tensor of the whole batch, by rows) that this process' replicas need."""
        begin, end = self.local_range(tf.shape(rows, tf.int64)[0])
        return rows if self.everything_here else rows[begin:end]

    def local_range(self, total: Any) -> tuple[Any, Any]:
        """(begin, end) of this process' replicas in a batch of ``total`` rows."""
        last = self.first + (self.here or self.replicas) - 1
        return self.of(self.first, total)[0], self.of(last, total)[1]

    @property
    def everything_here(self) -> bool:
        """All replicas are in this process."""
        return self.here is None or self.here == self.replicas
