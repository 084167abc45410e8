"""``python -m benchmarks [NAME ...]``: measure, print, and put the tables into ``docs/benchmarks.md``.

With ``--quick`` (or ``BENCH_SMALL=1``) some are short, to see that they work, and the page stays as it is.
"""

from __future__ import annotations

import os
import platform as machine
import re
import sys
import tempfile
import time
from pathlib import Path

from benchmarks import demo, job_start, listing, memory, serving, throughput, training, tuning
from benchmarks.size import SMALL

ALL = {
    "demo": demo.run,
    "job_start": job_start.run,
    "throughput": throughput.run,
    "training": training.run,
    "tuning": tuning.run,
    "serving": serving.run,
    "memory": memory.run,
    "listing": listing.run,
}
REPORT = Path(__file__).parents[1] / "docs" / "benchmarks.md"


def main(names: list[str]) -> int:
    if "--quick" in names:
        os.environ["BENCH_SMALL"] = "1"  # read on import: begin anew
        rest = [name for name in names if name != "--quick"]
        os.execv(sys.executable, [sys.executable, "-m", "benchmarks", *rest])
    unknown = set(names) - set(ALL)
    if unknown:
        print(f"no measurement called {', '.join(sorted(unknown))}; there are {', '.join(ALL)}")
        return 2
    with tempfile.TemporaryDirectory(prefix="modelyard-bench") as scratch:
        for name in names or ALL:
            started = time.monotonic()
            table = ALL[name](Path(scratch)).markdown()
            if not SMALL:
                record(name, table)
            print(table, f"\n({name} took {time.monotonic() - started:.0f} s)\n", flush=True)
    return 0


def record(name: str, table: str) -> None:
    """Put one table in its place on the page; the others stay as they are."""
    page = REPORT.read_text() if REPORT.exists() else ""
    found = dict(re.findall(r"<!-- (\w+) -->\n(.*?)(?=<!-- \w+ -->|\Z)", page, flags=re.S))
    found[name] = f"{table}\n"
    sections = (f"<!-- {name} -->\n{found[name].rstrip()}\n" for name in ALL if name in found)
    REPORT.write_text(heading() + "\n" + "\n".join(sections))


def heading() -> str:
    return f"""# Benchmarks

`make bench` measures these anew and rewrites this page. Compare numbers within one run only: timings depend on the
machine, and on what else it does. Last run: {time.strftime("%Y-%m-%d")}, {os.cpu_count()} cores, no GPU,
Python {machine.python_version()}.
"""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
