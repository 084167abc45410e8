"""What is counted and written down about each request and each load.

The ``:tensorflow:`` metrics have TensorFlow Serving's names, labels and units (microseconds), so its dashboards
work. It has none per version or signature (its issues 1970, 1959) and no request log (408, 1846): those are ours.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest

from services.serving.errors import Code
from services.serving.metrics import Counter, Histogram, exponential
from services.serving.tally import MICROSECONDS, SECONDS, Key, Sums, Tally
from services.serving.trace import Trace

log = logging.getLogger("serving.telemetry")

# What the graph's calls are called, and the gRPC methods that TensorFlow Serving's own metrics leave out.
_RUNTIMES = {"predict": "Predict", "classify": "Classify", "regress": "Regress"}
_LEFT_OUT = frozenset({"MultiInference", "GetModelMetadata", "GetModelStatus", "HandleReloadConfigRequest"})
_WHICH = ("model", "version", "signature")


class RequestLog:
    """One JSON line per request, appended to a file that may be moved away meanwhile (log rotation).

    Raises:
        OSError: on creation, if the file can't be opened.
    """

    def __init__(self, path: Path) -> None:
        self._handler = logging.handlers.WatchedFileHandler(path, encoding="utf-8")

    def write(self, trace: Trace, code: Code, latency: float, response_bytes: int) -> None:
        """Append one line. A disk that is full is no reason to fail a request."""
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "entrypoint": trace.entrypoint,
            "api": trace.api,
            "model": trace.model,
            "version": trace.version,
            "signature": trace.signature,
            "latency_ms": round(latency * 1000, 3),
            "request_bytes": trace.request_bytes,
            "response_bytes": response_bytes,
            "status": str(code),
            "request_id": trace.request_id,
        }
        self._handler.handle(logging.makeLogRecord({"msg": json.dumps(entry)}))

    def close(self) -> None:
        """Close the file."""
        self._handler.close()


class Telemetry:
    """All metrics, and the request log if there is one. Safe to use from many threads."""

    def __init__(self, request_log: RequestLog | None = None) -> None:
        self._request_log = request_log
        prefix = ":tensorflow:serving:"
        latency = ("model_name", "API", "entrypoint")
        self._count = Counter(prefix + "request_count", ("model_name", "status"))
        self._latency = Histogram(prefix + "request_latency", latency, MICROSECONDS)
        self._runtime = Histogram(prefix + "runtime_latency", ("model_name", "API", "runtime"), MICROSECONDS)
        self._examples = Histogram(prefix + "request_example_counts", ("model",), exponential(1, 2, 15))
        self._example_total = Counter(prefix + "request_example_count_total", ("model",))
        self._warmups = Histogram(prefix + "model_warmup_latency", ("model_path", "status"), MICROSECONDS)
        self._loads = Counter(":tensorflow:cc:saved_model:load_attempt_count", ("model_path", "status"))
        self._load_time = Counter(":tensorflow:cc:saved_model:load_latency", ("model_path",))
        own = "modelyard_serving_"
        self._requests = Counter(own + "requests_total", (*_WHICH, "api", "entrypoint", "status"))
        self._seconds = Histogram(own + "request_seconds", _WHICH, SECONDS)
        self._graph_seconds = Histogram(own + "graph_seconds", _WHICH, SECONDS)
        self._in = Counter(own + "request_bytes_total", _WHICH)
        self._out = Counter(own + "response_bytes_total", _WHICH)
        self._counters = (
            self._count, self._example_total, self._loads, self._load_time, self._requests, self._in, self._out,
        )  # fmt: skip
        self._histograms = (
            self._latency, self._runtime, self._examples, self._warmups, self._seconds, self._graph_seconds,
        )  # fmt: skip
        self.tally = Tally()  # what ``finish_quickly`` has noted and no metric shows yet
        self.gather: Callable[[], None] | None = None  # brings in what other processes have counted
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)

    def finish(self, trace: Trace, code: Code, response_bytes: int) -> None:
        """A request has been answered."""
        latency = time.perf_counter() - trace.began
        if self._request_log is not None:
            self._request_log.write(trace, code, latency, response_bytes)
        runtime = _RUNTIMES.get(trace.api.lower())
        if trace.api not in _LEFT_OUT:
            self._count.add((trace.model, str(code)))
            if code is Code.OK:
                api = trace.api if runtime or trace.entrypoint == "GRPC" else ""  # REST's status and metadata
                self._latency.observe((trace.model, api, trace.entrypoint), latency * 1e6)
        if trace.examples:
            self._examples.observe((trace.model,), trace.examples)
            self._example_total.add((trace.model,), trace.examples)
        if trace.runtime is not None and runtime:
            self._runtime.observe((trace.model, runtime, "TF1"), trace.runtime * 1e6)
        # Only what exists is a label of ours: a version that answered, or nothing at all.
        known = trace.version is not None
        which = (
            trace.model if known else "",
            str(trace.version) if known else "",
            trace.signature if known else "",
        )
        self._requests.add((*which, trace.api, trace.entrypoint, str(code)))
        if known:
            self._in.add(which, trace.request_bytes)
            self._out.add(which, response_bytes)
            self._seconds.observe(which, latency)
            if trace.runtime is not None:
                self._graph_seconds.observe(which, trace.runtime)

    def finish_quickly(self, trace: Trace, response_bytes: int) -> None:
        """A prediction of a known version has been answered well."""
        latency = time.perf_counter() - trace.began
        if self._request_log is not None:
            self._request_log.write(trace, Code.OK, latency, response_bytes)
        key = Key(trace.model, trace.version or 0, trace.signature, trace.api, trace.entrypoint)
        self.tally.note(key, latency, trace.runtime or 0.0, trace.request_bytes, response_bytes)

    def absorb(self, key: Key, sums: Sums) -> None:
        """Predictions that were answered well, here or elsewhere."""
        which = (key.model, str(key.version), key.signature)
        self._count.add((key.model, str(Code.OK)), sums.requests)
        self._latency.add((key.model, key.api, key.entrypoint), sums.latency_microseconds, sums.latency * 1e6)
        self._runtime.add((key.model, "Predict", "TF1"), sums.runtime_microseconds, sums.runtime * 1e6)
        self._requests.add((*which, key.api, key.entrypoint, str(Code.OK)), sums.requests)
        self._in.add(which, sums.bytes_in)
        self._out.add(which, sums.bytes_out)
        self._seconds.add(which, sums.latency_seconds, sums.latency)
        self._graph_seconds.add(which, sums.runtime_seconds, sums.runtime)

    def _settle(self) -> None:
        if self.gather is not None:
            self.gather()
        for key, sums in self.tally.take():
            self.absorb(key, sums)

    def loaded(self, path: str, seconds: float, *, ok: bool) -> None:
        """A load, with all that makes a version ready, has ended."""
        self._loads.add((path, "success" if ok else "fail"))
        self._load_time.add((path,), round(seconds * 1e6))

    def warmed_up(self, path: str, seconds: float, code: Code) -> None:
        """A warm-up has ended."""
        self._warmups.observe((path, str(code)), seconds * 1e6)

    def counter_total(self, name: str) -> int | None:
        """A counter's sum over its labels, by TensorFlow Serving's name with slashes or ours; None: no such one."""
        self._settle()
        wanted = name.replace("/", ":")
        return next((int(one.total()) for one in self._counters if one.name == wanted), None)

    def render(self) -> bytes:
        """All metrics in Prometheus' text form, the process' own (memory, CPU, files) among them."""
        self._settle()
        lines = [line for metric in (*self._counters, *self._histograms) for line in metric.render()]
        return "\n".join(lines).encode() + b"\n" + generate_latest(self._process)

    def close(self) -> None:
        """Close the request log."""
        if self._request_log is not None:
            self._request_log.close()
