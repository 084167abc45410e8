"""Metrics of the platform and of a worker, and that the alert rules are about metrics that there are."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import yaml
from prometheus_client.parser import text_string_to_metric_families

from services.api.platform_metrics import PlatformMetrics
from services.worker.meters import Gpus, Meters
from shared.jobs import JobState
from shared.settings import Settings
from shared.store import Report, Store
from tests.api_client import TestClient
from tests.builders import train_spec
from tests.conftest import free_port

PROMETHEUS = Path(__file__).parents[3] / "deploy" / "prometheus"


def samples(text: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(text: str, name: str, **labels: str) -> float | None:
    return samples(text).get((f"modelyard_{name}", frozenset(labels.items())))


def lived_in(store: Store) -> str:
    """A running job that trains, one that waits elsewhere, one that has ended, two workers. Returns the running one."""
    for name, queues in (("w1", ("default", "cpu")), ("w2", ("default",))):
        store.workers.beat(name, host="h", pid=1, slots=2, started_at=0.0, info={}, queues=queues)
    store.workers.drain("w2", now=False)
    ended = store.jobs.create(train_spec())[0]
    taken = store.claims.claim(ended.id, "w1", 60)
    assert taken is not None
    store.claims.finish(taken[0], JobState.SUCCEEDED)
    running = store.jobs.create(train_spec(project="vision", publish={"model": "fashion"}))[0]
    taken = store.claims.claim(running.id, "w1", 60)
    assert taken is not None
    store.claims.report(taken[0], Report(progress={"steps_per_second": 20.0}, run={"global_batch": 64}))
    store.jobs.create(train_spec(queue="big"))
    return running.id


def test_what_the_platform_does_is_counted(client: TestClient, store: Store) -> None:
    running = lived_in(store)
    text = client.get("/metrics").text
    assert value(text, "jobs", state="running") == 1
    assert value(text, "queue_jobs", queue="big") == 1
    waited = value(text, "queue_oldest_wait_seconds", queue="big")
    assert waited is not None
    assert waited >= 0
    assert (value(text, "queue_slots", queue="big"), value(text, "queue_slots", queue="default")) == (0, 2)
    assert (value(text, "workers_alive"), value(text, "workers_draining")) == (2, 1)
    assert (value(text, "worker_slots", state="busy"), value(text, "worker_slots", state="free")) == (1, 3)
    assert (value(text, "leases"), value(text, "leases_expired")) == (1, 0)
    labels = {"job": running, "model": "fashion", "project": "vision"}
    assert value(text, "job_steps_per_second", **labels) == 20
    assert value(text, "job_rows_per_second", **labels) == 1280
    assert value(text, "up", dependency="store") == 1
    assert value(text, "up", dependency="broker") == 0


def test_the_store_is_asked_no_more_than_every_few_seconds(client: TestClient, store: Store) -> None:
    metrics = PlatformMetrics(store, client.app.state.resources.queue, 15, 3600)  # type: ignore[attr-defined]
    first = list(metrics.collect())
    store.jobs.create(train_spec())
    assert list(metrics.collect()) == first


class _NvmlError(Exception):
    pass


def nvml() -> Any:
    """As much of NVIDIA's library as a card with no power sensor needs."""

    def no_sensor(_: int) -> int:
        raise _NvmlError

    return SimpleNamespace(
        NVMLError=_NvmlError,
        NVML_TEMPERATURE_GPU=0,
        nvmlDeviceGetCount=lambda: 1,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetUUID=lambda _: "GPU-1",
        nvmlDeviceGetName=lambda _: "Card",
        nvmlDeviceGetMemoryInfo=lambda _: SimpleNamespace(used=1, total=2),
        nvmlDeviceGetUtilizationRates=lambda _: SimpleNamespace(gpu=50),
        nvmlDeviceGetTemperature=lambda _, __: 40,
        nvmlDeviceGetPowerUsage=no_sensor,
    )


def test_gpus_show_what_they_have_a_sensor_for() -> None:
    found = {sample.name: sample.value for family in Gpus(nvml).collect() for sample in family.samples}
    assert found == {
        "modelyard_gpu_utilization_ratio": 0.5,
        "modelyard_gpu_memory_used_bytes": 1,
        "modelyard_gpu_memory_total_bytes": 2,
        "modelyard_gpu_temperature_celsius": 40,
    }
    assert list(Gpus(lambda: None).collect()) == []


def test_a_worker_answers_at_its_port_and_does_without_one_that_is_taken() -> None:
    port = free_port()
    settings = Settings(metrics_port=port)
    meters = Meters("w1", 2)
    meters.attempt("succeeded", 12.0)
    meters.attempt("failed, job queued: No room.", 3.0)
    close = meters.serve(settings)
    try:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False).text
        assert value(text, "worker_attempts_total", outcome="failed") == 1
        assert value(text, "worker_attempts_total", outcome="succeeded") == 1
        assert value(text, "worker_slot_count") == 2
        Meters("w2", 1).serve(settings)()
    finally:
        close()


def test_the_example_configuration_is_about_metrics_that_there_are(client: TestClient, store: Store) -> None:
    lived_in(store)
    client.get("/jobs")
    config = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert config["rule_files"] == ["alerts.yml"]
    assert {one["job_name"] for one in config["scrape_configs"]} >= {"modelyard", "modelyard-workers"}
    rules = [
        rule
        for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
        for rule in group["rules"]
    ]
    meters = Meters("w", 1)
    meters.registry.register(Gpus(nvml))
    api, worker = client.app.state.resources.telemetry.registry, meters.registry  # type: ignore[attr-defined]
    known = {
        name
        for registry in (api, worker)
        for family in registry.collect()
        for name in (
            {family.name, f"{family.name}_total"}
            if family.type == "counter"
            else {family.name, *(f"{family.name}_{end}" for end in ("bucket", "sum", "count"))}
        )
    }
    assert len(rules) == len({rule["alert"] for rule in rules}) > 5
    for rule in rules:
        assert rule["labels"]["severity"] in ("critical", "warning", "info")
        assert rule["annotations"]["summary"]
        named = set(re.findall(r"modelyard_[a-z_]+", rule["expr"]))
        assert named <= known, f"{rule['alert']}: no such metric: {named - known}"
        assert named or "up{" in rule["expr"]
