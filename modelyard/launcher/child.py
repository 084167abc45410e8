"""One process: started in a group of its own, so that Ctrl-C reaches the launcher only, and never outliving it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_ROTATE_BYTES = 8 * 2**20


def _die_with(parent: int) -> Callable[[], None]:
    """What a child runs before its program: have the kernel end it when the launcher is killed.

    SIGKILL, since nothing would be left to ask twice. Leases and the append-only file make that harmless.
    The tie is to the thread that forks, so children are started by the main thread only.
    """
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None

    def prepare() -> None:
        if libc is not None:
            libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:  # killed between the fork and the line above
                os._exit(1)

    return prepare


class Child:
    """A running process and its log."""

    def __init__(self, name: str, argv: tuple[str, ...], env: dict[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        self.started = time.monotonic()
        rotate(log)
        with log.open("ab") as sink:
            self.process = subprocess.Popen(
                argv,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                process_group=0,
                preexec_fn=_die_with(os.getpid()),  # noqa: PLW1509 (the launcher has no other threads)
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def age(self) -> float:
        """Seconds since it was started."""
        return time.monotonic() - self.started

    def ended(self) -> int | None:
        """Its return code, or None while it runs."""
        return self.process.poll()

    def terminate(self) -> None:
        """Ask the process itself to stop; it knows best how to end its own children."""
        with contextlib.suppress(ProcessLookupError):
            self.process.terminate()

    def kill_group(self) -> None:
        """End it and whatever it left in its group."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


def rotate(log: Path) -> None:
    """Keep one old log when the current one has grown large."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if log.stat().st_size > _ROTATE_BYTES:
            log.replace(log.with_suffix(".log.1"))


def last_words(log: Path, *, limit: int = 200) -> str:
    """The last line that a log holds, for a one-line report."""
    with contextlib.suppress(OSError), log.open("rb") as source:
        source.seek(max(0, log.stat().st_size - 4096))
        lines = [line.strip() for line in source.read().decode(errors="replace").splitlines() if line.strip()]
        if lines:
            return lines[-1][:limit]
    return "it wrote nothing"


def describe_end(code: int) -> str:
    """A return code in words."""
    if code >= 0:
        return f"ended with exit code {code}"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
