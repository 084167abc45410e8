"""Why a training program ended, in words."""

from __future__ import annotations

import errno
import re
import signal
from pathlib import Path

from shared.jobs import JobError

TAIL_BYTES = 8_000
# What native code says before it aborts for want of memory: how a limit on the process itself shows.
_NO_MEMORY = re.compile(
    r"bad_alloc|cannot allocate memory|out of memory|OOM when allocating|MemoryError", re.IGNORECASE
)


def oom_kills() -> int:
    """Processes the kernel has killed for want of memory, on this host since boot; 0 where it does not say."""
    total = 0
    for path, key in (("/proc/vmstat", "oom_kill"), ("/sys/fs/cgroup/memory.events", "oom_kill")):
        try:
            for line in Path(path).read_text().splitlines():
                name, _, number = line.partition(" ")
                if name == key:
                    total += int(number)
        except (OSError, ValueError):
            continue
    return total


def log_tail(log_file: Path, limit: int = TAIL_BYTES) -> str | None:
    """The last whole lines of a log, at most ``limit`` bytes; None when there are none."""
    try:
        with log_file.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - limit))
            tail = file.read().decode(errors="replace")
    except OSError:
        return None
    if size > limit:
        tail = tail.partition("\n")[2]
    # faulthandler ends its report with all modules there are, pages of them
    tail = re.sub(r"^Extension modules: .*$\n?", "", tail, flags=re.MULTILINE)
    return tail.strip() or None


def detail(log_file: Path, said: str | None) -> str | None:
    """The end of the log, and ``said``, the program's own words, where the log does not have them (on a full disk)."""
    tail = log_tail(log_file)
    if not said or (tail and said[:200] in " ".join(tail.split())):
        return tail or said
    return f"{tail}\n{said}" if tail else said


def of_os_error(error: OSError) -> JobError:
    """A file of the supervisor's own could not be read or written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return JobError("disk_full", f"The disk is full: {error}", "Free space, then retry the job.")
    return JobError("internal", f"{type(error).__name__}: {error}")


def crash(exit_code: int, *, oom_before: int, log_file: Path, too_much: bool = False) -> JobError:
    """The error of a program that ended without saying why.

    Args:
        exit_code: negative for a signal, as ``subprocess`` gives it.
        oom_before: ``oom_kills()`` when the program started.
        log_file: its log, for the tail.
        too_much: its steps were estimated to take more memory than there was (``memory.too_much``).
    """
    detail = log_tail(log_file)
    if exit_code == -signal.SIGKILL and oom_kills() > oom_before:
        return JobError(
            "oom_host",
            "The kernel killed the training process because the machine ran out of memory.",
            detail=detail,
        )
    if exit_code in (-signal.SIGABRT, -signal.SIGSEGV) and _NO_MEMORY.search((detail or "")[-1000:]):
        return JobError("oom_host", "A native library gave up because no memory was left.", detail=detail)
    if too_much and exit_code in (-signal.SIGABRT, -signal.SIGSEGV, -signal.SIGBUS, -signal.SIGKILL):
        return JobError(
            "oom_host",
            f"The training process was ended by {signal.Signals(-exit_code).name}, most likely for want of memory: "
            "its steps take more than was free.",
            detail=detail,
        )
    if exit_code < 0:
        try:
            name = signal.Signals(-exit_code).name
        except ValueError:
            name = f"signal {-exit_code}"
        hints = {
            "SIGKILL": "Somebody or something killed it; a container's memory limit does that too.",
            "SIGSEGV": "A crash inside a native library; the log may say which.",
            "SIGABRT": "A native library gave up; the log says why.",
        }
        return JobError(
            "trainer_killed",
            f"The training process was ended by {name}.",
            hint=hints.get(name),
            detail=detail,
        )
    return JobError(
        "trainer_crashed",
        f"The training process ended with exit code {exit_code} without saying why.",
        hint="The end of its log is in 'detail'; all of it is at GET /jobs/{id}/logs.",
        detail=detail,
    )
