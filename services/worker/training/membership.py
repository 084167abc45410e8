"""This program's place in a cluster of them. Nothing here imports TensorFlow, which must not run before ``join``."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import NoReturn

from services.worker.protocol import MEMBER_LOST, PORT_TAKEN, Alive, ClusterTask
from services.worker.training.emitter import Emitter
from services.worker.training.failures import TrainingFailed, shorten
from services.worker.training.stopping import StopSignal

ALIVE_SECONDS = 1.0
# How TensorFlow says that somebody else is gone: by collectives, by its coordination service, by gRPC. The classes are
# those of tf.errors.
_GONE = frozenset(
    {"UnavailableError", "AbortedError", "CancelledError", "DeadlineExceededError", "PSUnavailableError"}
)
_GONE_WORDS = ("Collective ops is aborted", "heartbeat", "Socket closed", "Connection reset by peer")


def join(task: ClusterTask, emit: Emitter, stop: StopSignal) -> None:
    """Set up the process as ``task`` says, before TensorFlow's first call."""
    os.environ["TF_CONFIG"] = task.tf_config
    if task.visible_gpus is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = task.visible_gpus
    hosts = {address.rpartition(":")[0] for addresses in task.addresses.values() for address in addresses}
    # members are never reached through a web proxy; gRPC reads the name in small letters
    os.environ["no_grpc_proxy"] = ",".join(sorted(hosts))  # noqa: SIM112
    if "ps" in task.addresses:
        os.environ["GRPC_FAIL_FAST"] = "use_caller"  # or the chief waits for ever for a worker that is gone
    if not (task.is_chief and "ps" in task.addresses):
        stop.by_agreement(follows=not task.is_chief)
    if not task.is_chief:
        threading.Thread(target=_say_alive, args=(emit,), name="alive", daemon=True).start()


def serves(task: ClusterTask | None) -> bool:
    """Whether this program does as the chief of parameter_server says, instead of running the job."""
    return task is not None and "ps" in task.addresses and not task.is_chief


def wait_to_be_ended() -> NoReturn:
    """All is done here; the supervisor ends this program when the chief has ended. It may still talk to it."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    while True:
        time.sleep(3600)


def explain(error: BaseException, task: ClusterTask | None) -> TrainingFailed | None:
    """The failure of a member that only says that another one, or its port, is gone; None for all others."""
    if task is None:
        return None
    name, text = type(error).__name__, str(error)
    summary = shorten(f"{name}: {text}", 400)
    if "Could not start gRPC server" in text:
        return TrainingFailed(PORT_TAKEN, "Another program listens at this member's port.", detail=summary)
    # a collective of unequal shapes is aborted too, but would be every time
    own_fault = name == "InvalidArgumentError"
    if name in _GONE or (not own_fault and any(words in text for words in _GONE_WORDS)):
        return TrainingFailed(
            MEMBER_LOST,
            "Another process of the job's cluster stopped answering.",
            "The logs of its members (GET /jobs/{id}/logs?member=worker-1) may say why.",
            detail=summary,
        )
    return None


def _say_alive(emit: Emitter) -> None:
    while True:
        emit(Alive())
        time.sleep(ALIVE_SECONDS)
