"""When each stage of a job was reached, in seconds since its process began."""

from __future__ import annotations

import os
import time
from pathlib import Path


class Timings:
    """Marks on one monotonic clock. Zero is the process' own start, so a fresh start's imports are counted."""

    def __init__(self) -> None:
        self._entered = time.monotonic()
        self._before_entry = _process_age()
        self.marks: dict[str, float] = {"entry": round(self._before_entry, 3)}

    def now(self) -> float:
        """Seconds since the process began."""
        return self._before_entry + time.monotonic() - self._entered

    def mark(self, name: str) -> None:
        """Note that ``name`` was reached; the first time counts."""
        self.marks.setdefault(name, round(self.now(), 3))

    def first(self, name: str) -> bool:
        """As ``mark``; True the first time."""
        if name in self.marks:
            return False
        self.mark(name)
        return True


def _process_age() -> float:
    """Seconds since this process was started or forked, to 0.01 s; 0 where /proc is missing."""
    try:
        started = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return 0.0
