"""A process of a parameter_server cluster that is not its chief: holds variables, or computes steps."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import NoReturn

import tensorflow as tf
from tensorflow.python.eager import context

from services.worker.protocol import TrainingRequest
from services.worker.training import devices, membership
from services.worker.training.emitter import Emitter
from services.worker.training.stopping import StopSignal
from services.worker.training.timings import Timings
from shared.specs import TrainJob, parse_job


@dataclass
class ServerRun:
    """Takes the place of ``Run`` where the chief runs the job."""

    request: TrainingRequest
    emit: Emitter
    stop: StopSignal
    timings: Timings

    def run(self) -> NoReturn:
        """Serve until the supervisor ends this program.

        Raises:
            TrainingFailed: device_unavailable, device_invalid.
            tf.errors.UnknownError: its port is taken.
        """
        job = parse_job(self.request.spec)
        if isinstance(job, TrainJob):
            devices.apply(job.devices, self.emit)
        resolver = tf.distribute.cluster_resolver.TFConfigClusterResolver()
        cluster = resolver.cluster_spec()
        config = context.context().config  # with what the job's device options have set
        # with fewer threads than steps under way a server may wait for itself (TensorFlow's parameter server guide)
        needed = cluster.num_tasks("worker") + 1
        if 0 < config.inter_op_parallelism_threads < needed or (os.cpu_count() or 1) < needed:
            config.inter_op_parallelism_threads = needed
        server = tf.distribute.Server(
            cluster,
            job_name=resolver.task_type,
            task_index=resolver.task_id,
            protocol="grpc",
            config=config,
            start=True,
        )
        print(f"{resolver.task_type} {resolver.task_id} serves at {server.target}", flush=True)  # noqa: T201 - its log
        membership.wait_to_be_ended()

    def newest_checkpoint(self) -> None:
        """There is none here."""

    def note_gpu_memory(self) -> None:
        """The chief's part."""
