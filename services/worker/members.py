"""Who is in a cluster, at which addresses, with which GPUs. Plans only; ``cluster`` starts and watches the programs.

Members run on this worker's machine, but for those that have a ``Place`` elsewhere: seats of a gang (``gang``).
"""

from __future__ import annotations

import contextlib
import random
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal
from urllib.parse import urlsplit

from services.worker.protocol import ClusterTask
from shared.errors import InvalidInput
from shared.settings import Settings
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


@dataclass(frozen=True, slots=True)
class Place:
    """Where a member of a gang runs: another worker's machine."""

    worker: str
    host: str
    port: int
    gpus: str | None  # CUDA_VISIBLE_DEVICES; None leaves it alone


def slot_seats(strategy: StrategySpec) -> list[str]:
    """Names of the members that take a slot each of another worker when the cluster is spread: all workers but the
    first. The chief and the parameter servers stay with it.
    """
    return [
        f"worker-{index}" for index in range(1, sum(seat.task_type == "worker" for seat in seats(strategy)))
    ]


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


def own_address(settings: Settings) -> str:
    """The host at which other workers reach this machine: as set, or the address from which it reaches the broker."""
    if settings.advertise_host is not None:
        return settings.advertise_host
    parts = urlsplit(settings.broker_url)
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect((parts.hostname or LOCALHOST, parts.port or 6379))  # sends nothing
            return str(probe.getsockname()[0])
    except OSError:
        return socket.gethostname()


@dataclass
class Ports:
    """Free ports, kept from being given to others until ``release``.

    A bound socket that does not listen lets gRPC bind and listen at the same port (both set SO_REUSEADDR), while the
    kernel hands the port to nobody who asks for any. Whoever asks for this very port still gets it: the member that
    can't have it then says ``port_taken``.

    Attributes:
        among: first and last port that may be had, such as 20000-20099; None for any.
    """

    among: str | None = None
    held: list[socket.socket] = field(default_factory=list)

    def take(self, count: int) -> list[int]:
        """``count`` different ports.

        Raises:
            OSError: there are none left.
        """
        first, _, last = (self.among or "0-0").partition("-")
        candidates = list(range(int(first), int(last) + 1)) if self.among else [0] * count
        random.shuffle(candidates)  # workers of one machine that share a range seldom try the same
        taken: list[int] = []
        while len(taken) < count:
            if not candidates:
                raise OSError(f"no port is free among MODELYARD_CLUSTER_PORTS={self.among}")
            port = candidates.pop()
            if port and not _is_free(port):
                continue
            taken.append(self._hold(port))
        return taken

    def listen(self) -> None:
        """Let others see that they can connect, until ``rest``."""
        for one in self.held:
            one.listen()

    def rest(self) -> None:
        """Hold the same ports without listening."""
        ports = [int(one.getsockname()[1]) for one in self.held]
        self.release()
        for port in ports:
            with contextlib.suppress(OSError):  # who takes it meanwhile is found out by the member
                self._hold(port)

    def release(self) -> None:
        """Let go of all."""
        for one in self.held:
            with contextlib.suppress(OSError):
                one.close()
        self.held.clear()

    def _hold(self, port: int) -> int:
        one = socket.socket()
        self.held.append(one)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        one.bind(("", port))  # gRPC servers of TensorFlow listen on all interfaces
        return int(one.getsockname()[1])


def _is_free(port: int) -> bool:
    with socket.socket() as probe:  # without SO_REUSEADDR: a port that is merely held is not free either
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True


def tasks(
    members: Sequence[Seat],
    ports: Sequence[int],
    shares: Sequence[str | None],
    host: str = LOCALHOST,
    elsewhere: Mapping[str, Place] | None = None,
) -> list[ClusterTask]:
    """What each member is told.

    Args:
        members: all, as ``seats`` gives them.
        ports: of those that run here, in their order.
        shares: CUDA_VISIBLE_DEVICES of those that run here, in their order.
        host: of those that run here.
        elsewhere: where the others run, by name.
    """
    away = elsewhere or {}
    here = iter([Place("", host, port, share) for port, share in zip(ports, shares, strict=True)])
    places = [away.get(member.name) or next(here) for member in members]
    addresses: dict[str, list[str]] = {}
    for member, place in zip(members, places, strict=True):
        addresses.setdefault(member.task_type, []).append(f"{place.host}:{place.port}")
    return [
        ClusterTask(
            addresses=addresses, task_type=member.task_type, task_index=member.index, visible_gpus=place.gpus
        )
        for member, place in zip(members, places, strict=True)
    ]
