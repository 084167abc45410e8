"""tpu: a replica on each core of a TPU."""

from __future__ import annotations

import socket
from urllib.parse import urlsplit

import tensorflow as tf

from services.worker.training.failures import TrainingFailed, shorten
from services.worker.training.strategies.opened import OpenStrategy
from shared.specs import TpuStrategy

CONNECT_SECONDS = 20.0


def open(spec: TpuStrategy) -> OpenStrategy:
    """Find the TPU, connect to it, and reset it. A TPU of this host is called ``local``.

    Raises:
        TrainingFailed: strategy_unavailable: there is none, or it does not answer.
    """
    try:
        resolver = tf.distribute.cluster_resolver.TPUClusterResolver(
            tpu=spec.name, zone=spec.zone, project=spec.project
        )
        if spec.name != "local":
            _reach(resolver.master())
            tf.config.experimental_connect_to_cluster(resolver)
        tf.tpu.experimental.initialize_tpu_system(resolver)
        strategy = tf.distribute.TPUStrategy(resolver)
    except (ValueError, RuntimeError, OSError, ImportError, tf.errors.OpError) as error:
        raise TrainingFailed(
            "strategy_unavailable",
            f"The TPU {spec.name!r} can't be used: {shorten(str(error), 300)}",
            "Run the job on a worker with a TPU, name one by strategy.name (with zone and project, or as grpc://...), "
            "or leave strategy out.",
            detail=shorten(f"{type(error).__name__}: {error}"),
        ) from error
    devices = tuple(str(device).removeprefix("/device:") for device in strategy.extended.worker_devices)
    return OpenStrategy(spec.kind, strategy, devices, {"tpu": spec.name})


def _reach(address: str) -> None:
    """TensorFlow waits for an address for ever; this raises OSError when nothing listens there."""
    place = urlsplit(address if "//" in address else f"//{address}")
    socket.create_connection((place.hostname or "", place.port or 8470), timeout=CONNECT_SECONDS).close()
