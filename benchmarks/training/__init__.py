"""Training against the textbook's script and plain ``fit``; two workers, checkpoints, memory over many jobs.

Every comparison is made within one run, its sides interleaved round by round.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from benchmarks.data import prepared_home
from benchmarks.running import Running, platform
from benchmarks.table import Table, Tables
from benchmarks.training import against_scripts, checkpoints, many_jobs, two_workers


def run(scratch: Path) -> Tables:
    home = prepared_home(scratch)
    with platform(home, allowed_paths=str(scratch)) as running:
        tables = []
        for table in _measured(running, scratch):
            print(table.markdown(), flush=True)  # the whole takes long: what is known is shown
            tables.append(table)
        return Tables(tables)


def _measured(running: Running, scratch: Path) -> Iterator[Table]:
    yield from against_scripts.measure(running)
    yield two_workers.measure(running)
    yield checkpoints.measure(running)
    yield many_jobs.measure(running, scratch)
