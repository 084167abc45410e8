"""multi_worker_mirrored: a copy of the model in each of several processes, one or more GPUs each.

Every process runs the whole job on its rows of each global batch, and computes the same metrics from the outputs of
all, so all take the same decisions at the same step. What only one of them can know is agreed upon between chunks of
steps: how many steps come next (the chief measures) and whether somebody was told to stop.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import tensorflow as tf

from services.worker.training.failures import TrainingFailed
from services.worker.training.stopping import StopSignal
from services.worker.training.strategies.opened import OpenStrategy
from services.worker.training.strategies.slices import Slices
from shared.specs import MultiWorkerMirroredStrategy

_SUM = tf.distribute.ReduceOp.SUM


@dataclass(frozen=True)
class _Together(OpenStrategy):
    task: int = 0
    here: int = 1  # replicas in this process
    batch: int = 0
    data: int = 0  # a checksum

    @property
    def slices(self) -> Slices:
        return Slices(self.replicas, first=self.task * self.here, here=self.here)

    def gather(self, per_replica: Any) -> Any:
        # a collective's shape may never change, so every slice is made as long as the longest
        longest = max(-(-self.batch // self.replicas), min(self.batch, self.replicas - 1))

        def padded(outputs: Any) -> tuple[Any, Any]:
            rows = tf.shape(outputs)[0]
            rest = [[0, 0]] * (len(outputs.shape) - 1)
            whole = tf.pad(outputs, [[0, longest - rows], *rest])
            return tf.ensure_shape(whole, [longest, *outputs.shape[1:]]), tf.sequence_mask(
                [rows], longest, tf.int32
            )[0]

        strategy: Any = self.strategy
        outputs, present = strategy.run(padded, args=(per_replica,))
        return tf.boolean_mask(strategy.gather(outputs, axis=0), strategy.gather(present, axis=0) > 0)

    def dealing(self, batch: int, fingerprint: str) -> OpenStrategy:
        return replace(self, batch=batch, data=zlib.crc32(fingerprint.encode()))

    def agree(self, steps: int, done: int, stop: StopSignal) -> int:
        if self.replicas == self.here:
            stop.agreed(stop.wished)
            return steps
        of_chief = [steps, done, self.data] if self.task == 0 else [0, 0, 0]
        said = self._sum(tf.constant([int(stop.wished), *of_chief], tf.int64)).numpy()
        stops, count, place, data = (int(number) // self.here for number in said)
        if data != self.data:
            raise TrainingFailed(
                "data_invalid",
                f"Process {self.task} of the cluster has loaded other rows than the chief.",
                "Code that makes a dataset must make the same one each time: seed it.",
            )
        if place != done:
            raise TrainingFailed(
                "internal",
                f"Process {self.task} of the cluster stands at step {done}, the chief at step {place}.",
                "All must read the same checkpoints: see that they share the home folder.",
            )
        stop.agreed(stops > 0)
        return count

    @cached_property
    def _sum(self) -> Any:
        strategy: Any = self.strategy

        def total(mine: Any) -> Any:
            # collectives need a device, which an argument of a traced function has not
            return tf.distribute.get_replica_context().all_reduce(_SUM, tf.identity(mine))

        @tf.function(autograph=False, input_signature=[tf.TensorSpec([4], tf.int64)])  # type: ignore[untyped-decorator]
        def agreed(mine: Any) -> Any:
            return strategy.experimental_local_results(strategy.run(total, args=(mine,)))[0]

        return agreed


def open(spec: MultiWorkerMirroredStrategy) -> OpenStrategy:
    """Connect to the other workers, which ``TF_CONFIG`` names; returns when all are there.

    Raises:
        TrainingFailed: strategy_unavailable.
        tf.errors.UnknownError: this worker's port is taken.
    """
    if spec.communication == "nccl" and not tf.config.list_physical_devices("GPU"):
        raise TrainingFailed(
            "strategy_unavailable",
            "strategy.communication is nccl, which is for GPUs, and this worker has none.",
            "Use ring, or auto.",
        )
    options = tf.distribute.experimental.CommunicationOptions(
        implementation={
            "auto": tf.distribute.experimental.CommunicationImplementation.AUTO,
            "ring": tf.distribute.experimental.CommunicationImplementation.RING,
            "nccl": tf.distribute.experimental.CommunicationImplementation.NCCL,
        }[spec.communication]
    )
    resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
    strategy = tf.distribute.MultiWorkerMirroredStrategy(resolver, options)
    devices = tuple(strategy.extended.worker_devices)
    facts = {"workers": spec.workers, "communication": spec.communication}
    return _Together(spec.kind, strategy, devices, facts, task=int(resolver.task_id or 0), here=len(devices))
