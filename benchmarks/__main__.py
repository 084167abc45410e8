"""``python -m benchmarks [NAME ...]``: measure, print, and write ``docs/benchmarks.md`` when all were measured."""

from __future__ import annotations

import os
import platform as machine
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import demo, job_start, listing, memory, throughput

ALL = {
    "demo": demo.run,
    "job_start": job_start.run,
    "throughput": throughput.run,
    "memory": memory.run,
    "listing": listing.run,
}
REPORT = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def main(names: list[str]) -> int:
    unknown = set(names) - set(ALL)
    if unknown:
        print(f"no measurement called {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
        return 2
    tables = []
    with tempfile.TemporaryDirectory(prefix="modelyard-bench") as scratch:
        for name in names or ALL:
            started = time.monotonic()
            tables.append(ALL[name](Path(scratch)).markdown())
            print(tables[-1], f"\n({name} took {time.monotonic() - started:.0f} s)\n", flush=True)
    if not names:
        REPORT.write_text(heading() + "\n" + "\n".join(tables))
    return 0


def heading() -> str:
    return f"""# Benchmarks

`make bench` measures these anew and rewrites this page. Compare numbers within one run only: timings depend on the
machine, and on what else it does. Last run: {time.strftime("%Y-%m-%d")}, {os.cpu_count()} cores, no GPU,
Python {machine.python_version()}.
"""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
