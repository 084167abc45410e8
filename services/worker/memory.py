"""How much memory a job has and needs, and which batch size would fit. Shared by supervisor and trainer."""

from __future__ import annotations

import os
import resource
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Of what is free, this much is planned with: other processes, fragments, and ops that need room to work.
USABLE = 0.6
_CGROUP_FILES = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


@dataclass(frozen=True, slots=True)
class Footprint:
    """What training steps take on top of data, weights and optimizer, which are there before.

    Attributes:
        row_bytes: per row of the global batch: activations kept for the backward pass, and their gradients.
        gradient_bytes: whatever the batch: one gradient for each weight.
        available_bytes: host memory that was free just before the first step.
    """

    row_bytes: int
    gradient_bytes: int
    available_bytes: int

    def needed(self, rows: int) -> int:
        """Bytes for a step on a global batch of ``rows``."""
        return self.gradient_bytes + rows * self.row_bytes

    def facts(self) -> dict[str, int]:
        """As noted on the job."""
        return asdict(self)


def available_bytes() -> int:
    """What this process may still take: the least of free memory, the cgroup's limit and the process' own limit."""
    limits = [_meminfo("MemAvailable"), *_cgroup_room(), *_rlimit_room()]
    return max(0, min(limits))


def fitting_batch(footprint: Footprint, *, failed: int, replicas: int, free: int) -> int | None:
    """The largest power of two, at most half of the ``failed`` batch size per replica, whose step is estimated to fit.

    Args:
        footprint: of the job that ran out of memory.
        failed: its ``fit.batch_size``.
        replicas: that share the memory.
        free: bytes there were for steps.

    Returns:
        None when not even one row would fit.
    """
    room = free * USABLE - footprint.gradient_bytes
    rows = min(failed // 2, int(room // max(1, footprint.row_bytes * replicas)))
    return 1 << (rows.bit_length() - 1) if rows >= 1 else None


def too_much(batch_size: int, run: Mapping[str, Any]) -> bool:
    """Whether a job's steps were estimated to take more than there was: what a crash without a word then means.

    Native libraries that get no memory often end in SIGSEGV, and a container's limit in SIGKILL, with nothing in the
    log and nothing in this machine's counters.
    """
    known = run.get("memory") or {}
    if "row_bytes" not in known:
        return False
    footprint = Footprint(known["row_bytes"], known["gradient_bytes"], known["available_bytes"])
    return footprint.needed(batch_size * int(run.get("replicas", 1))) > footprint.available_bytes


def batch_hint(code: str, batch_size: int, run: Mapping[str, Any]) -> str:
    """What to do about ``oom_host`` or ``oom_gpu``, with a batch size where one would help.

    Args:
        code: which memory ran out.
        batch_size: the job's.
        run: the facts noted about the run.
    """
    other = (
        "Fewer logical devices, a higher devices.memory_limit_mb or a smaller model help too."
        if code == "oom_gpu"
        else "Setting dataset.cache to false, running fewer jobs at once or a smaller model help too."
    )
    known = run.get("memory") or {}
    free = known.get("gpu_bytes" if code == "oom_gpu" else "available_bytes")
    if "model" not in run:  # it ran out before there was a model
        return (
            "It ran out while the data were prepared, where the batch size does not matter: set dataset.cache to "
            "false, so that rows are read from disk, or give the worker more memory."
        )
    if free is None or "row_bytes" not in known:
        half = batch_size // 2
        return (f"Try fit.batch_size {half}, half of what failed. " if half else "") + other
    footprint = Footprint(known["row_bytes"], known["gradient_bytes"], known["available_bytes"])
    replicas = int(run.get("replicas", 1)) if code == "oom_host" else 1
    fits = fitting_batch(footprint, failed=batch_size, replicas=replicas, free=free)
    if fits is None:
        return f"By the model's size no batch fits into the {_size(free)} that were free. {other}"
    return (
        f"Use fit.batch_size {fits}: its steps take about {_size(footprint.needed(fits * replicas))} of the "
        f"{_size(free)} that were free, those of {batch_size} about {_size(footprint.needed(batch_size * replicas))}. "
        + other
    )


def _size(count: float) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{max(1, round(count / 1e6))} MB"


def _meminfo(key: str) -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _cgroup_room() -> list[int]:
    rooms = []
    for limit_file, usage_file in _CGROUP_FILES:
        try:
            limit, used = Path(limit_file).read_text().strip(), Path(usage_file).read_text()
            if limit != "max":
                rooms.append(int(limit) - int(used))
        except (OSError, ValueError):
            continue
    return rooms


def _rlimit_room() -> list[int]:
    rooms = []
    for kind, field in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        limit, _ = resource.getrlimit(kind)
        if limit != resource.RLIM_INFINITY:
            rooms.append(limit - _status(field))
    return rooms


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0
