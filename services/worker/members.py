"""Who is in a cluster, at which addresses, with which GPUs. Plans only; ``cluster`` starts and watches the programs.

All members run on this worker's machine. Nothing else here or in ``cluster`` depends on that: a plan over several
hosts would give each member the host it runs on, and need somebody there to start it.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from services.worker.protocol import ClusterTask
from shared.errors import InvalidInput
from shared.specs import MultiWorkerMirroredStrategy, ParameterServerStrategy, StrategySpec

LOCALHOST = "127.0.0.1"
TaskType = Literal["chief", "worker", "ps"]


@dataclass(frozen=True, slots=True)
class Seat:
    """A place in a cluster: a task, and whether it computes steps and so wants GPUs."""

    task_type: TaskType
    index: int
    computes: bool

    @property
    def name(self) -> str:
        """Such as worker-1; part of its log's file name."""
        return f"{self.task_type}-{self.index}"


def seats(strategy: StrategySpec) -> list[Seat]:
    """The members of a job's cluster, its chief first; none for strategies that live in one process."""
    if isinstance(strategy, MultiWorkerMirroredStrategy):
        return [Seat("worker", index, computes=True) for index in range(strategy.workers)]
    if isinstance(strategy, ParameterServerStrategy):
        servers = [Seat("ps", index, computes=False) for index in range(strategy.ps)]
        workers = [Seat("worker", index, computes=True) for index in range(strategy.workers)]
        return [Seat("chief", 0, computes=False), *servers, *workers]
    return []


def share_gpus(members: Sequence[Seat], gpus: Sequence[str]) -> list[str | None]:
    """CUDA_VISIBLE_DEVICES of each member: GPUs in equal runs to those that compute, none to the others.

    Args:
        members: as ``seats`` gives them.
        gpus: CUDA's names of the GPUs there are (indices or UUIDs). Empty: everything runs on CPUs.

    Returns:
        One string for each member; None for all where there are no GPUs.

    Raises:
        InvalidInput: fewer GPUs than members that compute. Two of them on one GPU would fail in NCCL, or fight for
            its memory.
    """
    if not gpus:
        return [None] * len(members)
    computing = sum(member.computes for member in members)
    if computing > len(gpus):
        raise InvalidInput(
            f"strategy.workers is {computing}, but this worker has {len(gpus)} GPU(s): each needs one of its own.",
            code="device_unavailable",
            field="strategy.workers",
            hint=f"Ask for {len(gpus)} worker(s) or fewer.",
        )
    each = len(gpus) // computing
    shares: list[str | None] = []
    given = 0
    for member in members:
        count = each if member.computes else 0
        shares.append(",".join(gpus[given : given + count]))
        given += count
    return shares


def gpu_names(found: int, visible: str | None) -> list[str]:
    """CUDA's names of ``found`` GPUs, given the CUDA_VISIBLE_DEVICES under which they were found."""
    if visible is None:
        return [str(index) for index in range(found)]
    return [name for name in visible.split(",") if name.strip()][:found]


@dataclass
class Ports:
    """Free ports, kept from being given to others until ``release``.

    A bound socket that does not listen lets gRPC bind and listen at the same port (both set SO_REUSEADDR), while the
    kernel hands the port to nobody who asks for any. Whoever asks for this very port still gets it: the member that
    can't have it then says ``port_taken``.
    """

    held: list[socket.socket] = field(default_factory=list)

    def take(self, count: int) -> list[int]:
        """``count`` different ports.

        Raises:
            OSError: there are none left.
        """
        for _ in range(count):
            one = socket.socket()
            self.held.append(one)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            one.bind(("", 0))  # gRPC servers of TensorFlow listen on all interfaces
        return [int(one.getsockname()[1]) for one in self.held[-count:]]

    def release(self) -> None:
        """Let go of all."""
        for one in self.held:
            with contextlib.suppress(OSError):
                one.close()
        self.held.clear()


def tasks(
    members: Sequence[Seat], ports: Sequence[int], shares: Sequence[str | None], host: str = LOCALHOST
) -> list[ClusterTask]:
    """What each member is told; ``members``, ``ports`` and ``shares`` go together one by one."""
    addresses: dict[str, list[str]] = {}
    for member, port in zip(members, ports, strict=True):
        addresses.setdefault(member.task_type, []).append(f"{host}:{port}")
    return [
        ClusterTask(
            addresses=addresses, task_type=member.task_type, task_index=member.index, visible_gpus=share
        )
        for member, share in zip(members, shares, strict=True)
    ]
