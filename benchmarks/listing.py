"""``GET /jobs`` and ``GET /jobs/{id}`` with 10 and with 10,000 jobs in the store. No worker takes part."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from sqlalchemy import create_engine, text

from benchmarks.running import free_port
from benchmarks.table import Row, Table, milliseconds, percentile
from shared.jobs import JobState
from shared.specs import parse_job
from shared.store import Report, Store, migrate

REQUESTS = 300


def fill(store: Store, url: str, count: int) -> None:
    """``count`` jobs as they look after a life: finished, with metrics, progress and events."""
    spec = parse_job(
        {
            "model": {"builder": "lenet5"},
            "dataset": {"tfds": "fashion_mnist"},
            "publish": {"model": "fashion"},
            "labels": {"team": "vision"},
        }
    )
    metrics = {"latest": {"loss": 0.3, "accuracy": 0.9}, "best": {"loss": {"value": 0.3, "epoch": 5}}}
    engine = create_engine(url)
    with engine.connect() as connection:  # one big fill may skip the disk's confirmations
        connection.execute(text("PRAGMA synchronous=OFF"))
    for _ in range(count):
        job, _created = store.jobs.create(spec)
        taken = store.claims.claim(job.id, "bench", 60)
        if taken is not None:
            report = Report(stage="training", metrics=metrics, progress={"epoch": 5, "epochs": 5, "step": 1,
                            "steps": 1, "fraction": 1.0, "eta_seconds": 0, "steps_per_second": 1,
                            "metrics": {}})  # fmt: skip
            store.claims.report(taken[0], report)
            store.claims.finish(taken[0], JobState.SUCCEEDED, result={"model": "fashion", "version": 1})
    engine.dispose()


Times = dict[str, list[float]]


def measure(jobs: int) -> tuple[Times, Times]:
    """Seconds per request, by what was asked: on a quiet machine, and while every core has other work."""
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/modelyard.db"
        migrate(url)
        store = Store(url)
        fill(store, url, jobs)
        one = store.jobs.find(limit=1).items[0].id
        middle = store.jobs.find(limit=200).items[-1].id
        store.close()
        port = free_port()
        environment = {
            **os.environ,
            "MODELYARD_HOME": folder,
            "MODELYARD_PORT": str(port),
            "MODELYARD_BROKER_URL": f"redis://127.0.0.1:{free_port()}/0",
        }
        process = subprocess.Popen(
            [sys.executable, "-m", "services.api"], env=environment, stderr=subprocess.DEVNULL
        )
        burners: list[subprocess.Popen[bytes]] = []
        try:
            base = f"http://127.0.0.1:{port}"
            _wait(base)
            asked = {
                "GET /jobs (50)": "/jobs",
                "GET /jobs?limit=200": "/jobs?limit=200",
                "GET /jobs?state&model&label": "/jobs?state=succeeded&model=fashion&label=team%3Dvision",
                "GET /jobs?after (page 4)": f"/jobs?after={middle}",
                "GET /jobs/{id}": f"/jobs/{one}",
            }
            with httpx.Client(base_url=base) as client:
                quiet = {name: _timed(client, path) for name, path in asked.items()}
                burners += [
                    subprocess.Popen([sys.executable, "-c", "while True: pass"])
                    for _ in range(os.cpu_count() or 1)
                ]
                return quiet, {name: _timed(client, path) for name, path in asked.items()}
        finally:
            for one_of_them in (process, *burners):
                one_of_them.terminate()
                one_of_them.wait(20)


def _timed(client: httpx.Client, path: str) -> list[float]:
    seconds = []
    for _ in range(REQUESTS):
        started = time.perf_counter()
        client.get(path).raise_for_status()
        seconds.append(time.perf_counter() - started)
    return seconds


def _wait(base: str) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{base}/healthz")
            return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RuntimeError("the API did not start")


def run(_: Path) -> Table:
    few, _ = measure(10)
    many, loaded = measure(10_000)
    rows = [
        Row(
            name,
            milliseconds(percentile(few[name], 95)),
            milliseconds(percentile(many[name], 95)),
            f"{percentile(many[name], 50) / percentile(few[name], 50):.2f}",
            f"{milliseconds(percentile(loaded[name], 50))} / {milliseconds(percentile(loaded[name], 95))}",
        )
        for name in many
    ]
    return Table(
        "Reading jobs",
        f"{REQUESTS} requests each over HTTP, one client. Target: `GET /jobs` below 50 ms at the 95th percentile "
        "with 10,000 jobs.",
        (
            "request",
            "p95 with 10 jobs",
            "p95 with 10,000 jobs",
            "median, 10,000 to 10",
            "10,000, all cores busy: p50 / p95",
        ),
        rows,
    )
