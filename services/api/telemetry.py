"""Prometheus metrics of one application, in a registry of its own."""

from __future__ import annotations

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.multiprocess import MultiProcessCollector

from services.api.platform_metrics import KEPT_SECONDS, PlatformMetrics
from shared.job_queue import JobQueue
from shared.store import Store

_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Telemetry:
    """Counts what the application does."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        # children by their labels: looking one up costs a lock and several objects, each time
        self._by_route: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}
        self._by_model: dict[str, Counter] = {}
        self._by_label: dict[tuple[str, str, int, int], tuple[Counter, Histogram]] = {}
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
        key = (method, route, status)
        found = self._by_route.get(key)
        if found is None:
            found = self._requests.labels(method, route, str(status)), self._seconds.labels(method, route)
            self._by_route[key] = found
        found[0].inc()
        if seconds is not None:
            found[1].observe(seconds)

    def prediction(self, model: str) -> None:
        """One predict request was answered."""
        found = self._by_model.get(model)
        if found is None:
            found = self._by_model[model] = self._predictions.labels(model)
        found.inc()

    def routed(self, model: str, label: str, version: int, status: int, seconds: float) -> None:
        """One request that named a label was answered."""
        key = (model, label, version, status)
        found = self._by_label.get(key)
        if found is None:
            found = self._by_label[key] = (
                self._routed.labels(model, label, str(version), str(status)),
                self._routed_seconds.labels(model, label, str(version)),
            )
        found[0].inc()
        found[1].observe(seconds)

    def withdrawn(self, model: str, label: str) -> None:
        """A guard has acted."""
        self._withdrawn.labels(model, label).inc()

    def shadow(self, model: str, version: int, outcome: str, seconds: float | None) -> None:
        """One copy of a request was sent, or left out."""
        self._shadows.labels(model, str(version), outcome).inc()
        if seconds is not None:
            self._shadow_seconds.labels(model, str(version)).observe(seconds)

    def watch(
        self,
        store: Store,
        queue: JobQueue,
        *,
        alive_within: float,
        shared: bool = False,
        kept_seconds: float = KEPT_SECONDS,
    ) -> None:
        """Also report the platform's state, asked at a scrape unless it was within the last few seconds.

        ``shared``: several processes count, and each reports the sum.
        """
        platform = PlatformMetrics(store, queue, alive_within, kept_seconds)
        if shared:
            self.registry = CollectorRegistry()
            MultiProcessCollector(self.registry)  # type: ignore[no-untyped-call]
        self.registry.register(platform)

    def exposition(self) -> bytes:
        """The metrics as text."""
        return generate_latest(self.registry)
