"""Prometheus metrics of the platform as a whole, from the store and the broker; kept for a few seconds, so that many
scrapers, and many API processes, cost the database little."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from shared.errors import Unavailable
from shared.job_queue import JobQueue
from shared.store import Store
from shared.store.census import Census

KEPT_SECONDS = 5.0
SHOWN_JOBS = 200  # series of running jobs; more would be a burden to Prometheus


class PlatformMetrics(Collector):
    """What does not answer is left out, and said so by ``modelyard_up``. Thread-safe."""

    def __init__(self, store: Store, queue: JobQueue, alive_within: float, kept_seconds: float) -> None:
        self._store = store
        self._queue = queue
        self._alive_within = alive_within
        self._kept = kept_seconds
        self._lock = threading.Lock()
        self._families: list[GaugeMetricFamily] = []
        self._until = 0.0

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # so that registering asks nothing

    def collect(self) -> Iterator[GaugeMetricFamily]:
        with self._lock:
            if time.monotonic() >= self._until:
                self._families = list(self._ask())
                self._until = time.monotonic() + self._kept
            families = self._families
        yield from families

    def _ask(self) -> Iterator[GaugeMetricFamily]:
        up = GaugeMetricFamily("modelyard_up", "Whether a dependency answers.", labels=["dependency"])
        queues = ["default"]
        try:
            census = self._store.census.take(alive_within=self._alive_within)
        except Unavailable:
            up.add_metric(["store"], 0)
        else:
            up.add_metric(["store"], 1)
            queues = sorted({"default", *(one.queue for one in census.waiting)})
            yield from _families(census)
        try:
            depth = self._queue.depth(*queues)
        except Unavailable:
            up.add_metric(["broker"], 0)
        else:
            up.add_metric(["broker"], 1)
            yield _gauge("queue_depth", "Messages waiting on the broker.", depth)
        yield up


def _gauge(name: str, about: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"modelyard_{name}", about, value=value)


def _labelled(name: str, about: str, labels: list[str]) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"modelyard_{name}", about, labels=labels)


def _families(census: Census) -> Iterator[GaugeMetricFamily]:
    states = _labelled("jobs", "Jobs by state.", ["state"])
    for state, number in census.states.items():
        states.add_metric([state.value], number)
    yield states
    waiting = _labelled("queue_jobs", "Jobs that wait, by queue; studies are not counted.", ["queue"])
    oldest = _labelled("queue_oldest_wait_seconds", "Age of the oldest job that waits.", ["queue"])
    workers = _labelled("queue_workers", "Live workers that serve a queue.", ["queue"])
    slots = _labelled("queue_slots", "Slots of live workers that serve a queue and do not drain.", ["queue"])
    for line in census.waiting:
        waiting.add_metric([line.queue], line.jobs)
        oldest.add_metric([line.queue], line.oldest_seconds)
    served = {one.queue: one for one in census.staff}
    for queue in sorted({*served, *(one.queue for one in census.waiting)}):
        staff = served.get(queue)
        workers.add_metric([queue], staff.workers if staff else 0)
        slots.add_metric([queue], staff.slots if staff else 0)
    yield from (waiting, oldest, workers, slots)
    yield _gauge("workers_alive", "Workers heard of lately.", census.workers_alive)
    yield _gauge("workers_draining", "Of these, those that take no more jobs.", census.workers_draining)
    taken = _labelled("worker_slots", "Slots of live workers.", ["state"])
    taken.add_metric(["busy"], census.slots_busy)
    taken.add_metric(["free"], max(0, census.slots - census.slots_busy))
    yield taken
    left = [one.lease_left for one in census.working if one.lease_left is not None]
    yield _gauge("leases", "Running jobs with a lease.", len(left))
    yield _gauge(
        "leases_expired", "Leases that have run out and were not swept yet.", sum(one < 0 for one in left)
    )
    yield _gauge(
        "lease_left_seconds_min", "Until the first lease runs out; negative: since.", min(left, default=0.0)
    )
    labels = ["job", "model", "project"]
    steps = _labelled("job_steps_per_second", "Optimizer steps of a running job.", labels)
    rows = _labelled("job_rows_per_second", "Rows that a running job trains on, over all replicas.", labels)
    for one in census.working[:SHOWN_JOBS]:
        values = [one.job_id, one.model or "", one.project]
        if one.steps_per_second is not None:
            steps.add_metric(values, one.steps_per_second)
        if one.rows_per_second is not None:
            rows.add_metric(values, one.rows_per_second)
    yield from (steps, rows)
