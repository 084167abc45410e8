"""Prometheus metrics of one application, in a registry of its own."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from shared.errors import Unavailable
from shared.job_queue import JobQueue
from shared.store import Store

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Telemetry:
    """Counts what the application does."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self._requests = Counter(
            "modelyard_http_requests",
            "Requests answered.",
            ["method", "route", "status"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "modelyard_http_request_seconds",
            "Time to the last byte of the answer; streams are not counted.",
            ["method", "route"],
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._predictions = Counter(
            "modelyard_predictions",
            "Predict requests that were answered, by model.",
            ["model"],
            registry=self.registry,
        )

        labelled = ["model", "label", "version"]
        self._routed = Counter(
            "modelyard_label_requests",
            "Requests by label, and the version it sent them to.",
            [*labelled, "status"],
            registry=self.registry,
        )
        self._routed_seconds = Histogram(
            "modelyard_label_request_seconds",
            "Time the model server took for them.",
            labelled,
            buckets=_BUCKETS,
            registry=self.registry,
        )
        self._withdrawn = Counter(
            "modelyard_label_withdrawals",
            "Versions that a label's guard has taken out of its traffic.",
            ["model", "label"],
            registry=self.registry,
        )
        self._shadows = Counter(
            "modelyard_shadow_requests",
            "Copies of requests: same, different, not_compared, failed or left_out.",
            ["model", "version", "outcome"],
            registry=self.registry,
        )
        self._shadow_seconds = Histogram(
            "modelyard_shadow_request_seconds",
            "Time the model server took for them.",
            ["model", "version"],
            buckets=_BUCKETS,
            registry=self.registry,
        )

    def request(self, method: str, route: str, status: int, seconds: float | None) -> None:
        """One request was answered; ``seconds`` None for a stream."""
        self._requests.labels(method, route, str(status)).inc()
        if seconds is not None:
            self._seconds.labels(method, route).observe(seconds)

    def prediction(self, model: str) -> None:
        """One predict request was answered."""
        self._predictions.labels(model).inc()

    def routed(self, model: str, label: str, version: int, status: int, seconds: float) -> None:
        """One request that named a label was answered."""
        self._routed.labels(model, label, str(version), str(status)).inc()
        self._routed_seconds.labels(model, label, str(version)).observe(seconds)

    def withdrawn(self, model: str, label: str) -> None:
        """A guard has acted."""
        self._withdrawn.labels(model, label).inc()

    def shadow(self, model: str, version: int, outcome: str, seconds: float | None) -> None:
        """One copy of a request was sent, or left out."""
        self._shadows.labels(model, str(version), outcome).inc()
        if seconds is not None:
            self._shadow_seconds.labels(model, str(version)).observe(seconds)

    def watch(self, store: Store, queue: JobQueue, *, alive_within: float, shared: bool = False) -> None:
        """Also report the platform's state, asked at each scrape.

        ``shared``: several processes count, and each reports the sum.
        """
        platform = _Platform(store, queue, alive_within)
        if shared:
            self.registry = CollectorRegistry()
            MultiProcessCollector(self.registry)  # type: ignore[no-untyped-call]
        self.registry.register(platform)

    def exposition(self) -> bytes:
        """The metrics as text."""
        return generate_latest(self.registry)


class _Platform(Collector):
    """Gauges that are queried when scraped. What does not answer is left out, and said so by ``modelyard_up``."""

    def __init__(self, store: Store, queue: JobQueue, alive_within: float) -> None:
        self._store = store
        self._queue = queue
        self._alive_within = alive_within

    def describe(self) -> list[GaugeMetricFamily]:
        return []  # so that registering asks nothing

    def collect(self) -> Iterator[GaugeMetricFamily]:
        up = GaugeMetricFamily("modelyard_up", "Whether a dependency answers.", labels=["dependency"])
        try:
            counts = self._store.jobs.count_by_state()
            alive = self._store.workers.count_alive(within_seconds=self._alive_within)
        except Unavailable:
            up.add_metric(["store"], 0)
        else:
            up.add_metric(["store"], 1)
            jobs = GaugeMetricFamily("modelyard_jobs", "Jobs by state.", labels=["state"])
            for state, number in counts.items():
                jobs.add_metric([state.value], number)
            yield jobs
            yield GaugeMetricFamily("modelyard_workers_alive", "Workers heard of lately.", value=alive)
        try:
            depth = self._queue.depth()
        except Unavailable:
            up.add_metric(["broker"], 0)
        else:
            up.add_metric(["broker"], 1)
            yield GaugeMetricFamily("modelyard_queue_depth", "Messages waiting on the broker.", value=depth)
        yield up
