"""A worker's own metrics: what its attempts came to, how busy it is, and its GPUs as NVIDIA's driver sees them."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    start_http_server,
)
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from shared.settings import Settings

log = logging.getLogger(__name__)
_MINUTES = tuple(60.0 * n for n in (0.05, 0.25, 1, 5, 15, 60, 240, 720, 1440))


class Meters:
    """Counts for as long as the worker lives. Thread-safe."""

    def __init__(self, worker_id: str, slots: int) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._attempts = Counter(
            "modelyard_worker_attempts",
            "Attempts at jobs, by how they ended: succeeded, failed, cancelled, released, lost, stood down.",
            ["outcome"],
            registry=self.registry,
        )
        self._seconds = Histogram(
            "modelyard_worker_attempt_seconds",
            "How long attempts took.",
            ["outcome"],
            buckets=_MINUTES,
            registry=self.registry,
        )
        self._busy = Gauge("modelyard_worker_busy_slots", "Slots that run a job.", registry=self.registry)
        self._draining = Gauge(
            "modelyard_worker_draining", "1 while it takes no jobs.", registry=self.registry
        )
        Gauge("modelyard_worker_slot_count", "Jobs it runs at once.", registry=self.registry).set(slots)
        Gauge("modelyard_worker_info", "Always 1.", ["worker"], registry=self.registry).labels(worker_id).set(
            1
        )
        self.registry.register(Gpus(_nvml))

    def attempt(self, ended: str, seconds: float) -> None:
        """One attempt has ended; ``ended`` begins with the outcome."""
        outcome = re.split("[:,]", ended, maxsplit=1)[0]
        self._attempts.labels(outcome).inc()
        self._seconds.labels(outcome).observe(seconds)

    def busy(self, slots: int) -> None:
        """So many slots run jobs."""
        self._busy.set(slots)

    def draining(self, yes: bool) -> None:
        """Whether it takes no jobs."""
        self._draining.set(yes)

    def serve(self, settings: Settings) -> Callable[[], None]:
        """Answer scrapes at ``MODELYARD_METRICS_PORT``, if it is set; returns what ends that."""
        if settings.metrics_port is None:
            return lambda: None
        try:
            server, thread = start_http_server(
                settings.metrics_port, settings.metrics_host, registry=self.registry
            )
        except OSError as error:
            # no reason to run no jobs
            log.error("no metrics at %s:%d: %s", settings.metrics_host, settings.metrics_port, error)
            return lambda: None

        def close() -> None:
            server.shutdown()
            server.server_close()
            thread.join()

        return close


class Gpus(Collector):
    """Load, memory, temperature and power of each GPU. Nothing where there is no driver."""

    def __init__(self, load: Callable[[], Any]) -> None:
        self._load = load
        self._nvml: Any = None
        self._gone = False

    def describe(self) -> list[GaugeMetricFamily]:
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        if self._gone:
            return
        if self._nvml is None:
            self._nvml = self._load()
            self._gone = self._nvml is None
            if self._gone:
                return
        nvml = self._nvml
        labels = ["gpu", "uuid", "name"]
        load = GaugeMetricFamily(
            "modelyard_gpu_utilization_ratio", "Share of time it was busy.", labels=labels
        )
        used = GaugeMetricFamily("modelyard_gpu_memory_used_bytes", "Memory in use.", labels=labels)
        total = GaugeMetricFamily("modelyard_gpu_memory_total_bytes", "Memory it has.", labels=labels)
        heat = GaugeMetricFamily(
            "modelyard_gpu_temperature_celsius", "Temperature of the chip.", labels=labels
        )
        power = GaugeMetricFamily("modelyard_gpu_power_watts", "Power drawn.", labels=labels)
        with contextlib.suppress(nvml.NVMLError):  # one that fell off the bus
            for index in range(nvml.nvmlDeviceGetCount()):
                one = nvml.nvmlDeviceGetHandleByIndex(index)
                names = [str(index), str(nvml.nvmlDeviceGetUUID(one)), str(nvml.nvmlDeviceGetName(one))]
                memory = nvml.nvmlDeviceGetMemoryInfo(one)
                used.add_metric(names, memory.used)
                total.add_metric(names, memory.total)
                # what a card has no sensor for is left out
                with contextlib.suppress(nvml.NVMLError):
                    load.add_metric(names, nvml.nvmlDeviceGetUtilizationRates(one).gpu / 100)
                with contextlib.suppress(nvml.NVMLError):
                    heat.add_metric(names, nvml.nvmlDeviceGetTemperature(one, nvml.NVML_TEMPERATURE_GPU))
                with contextlib.suppress(nvml.NVMLError):
                    power.add_metric(names, nvml.nvmlDeviceGetPowerUsage(one) / 1000)
        yield from (load, used, total, heat, power)


def _nvml() -> Any:
    """NVIDIA's library, ready to be asked; None without its driver."""
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml
