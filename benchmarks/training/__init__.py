"""Training against the textbook's script and plain ``fit``; two workers, checkpoints, memory over many jobs.

Every comparison is made within one run, its sides interleaved round by round.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.data import prepared_home
from benchmarks.running import platform
from benchmarks.table import Tables
from benchmarks.training import against_scripts, checkpoints, many_jobs, two_workers


def run(scratch: Path) -> Tables:
    home = prepared_home(scratch)
    with platform(home, allowed_paths=str(scratch)) as running:
        return Tables(
            [
                *against_scripts.measure(running, scratch),
                two_workers.measure(running),
                checkpoints.measure(running),
                many_jobs.measure(running, scratch),
            ]
        )
