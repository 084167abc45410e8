"""Studies against the scripts that a person would write, and a thousand trivial trials through the real queue."""

from __future__ import annotations

from pathlib import Path

from benchmarks.data import prepared_home
from benchmarks.table import Tables
from benchmarks.tuning import against_scripts, many_trials


def run(scratch: Path) -> Tables:
    home = prepared_home(scratch)
    tables = []
    for measure in (against_scripts.measure, many_trials.measure):
        table = measure(home, scratch)
        print(table.markdown(), flush=True)  # the whole takes long: what is known is shown
        tables.append(table)
    return Tables(tables)
