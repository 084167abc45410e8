"""Prometheus' text form, and the bound on what a metric remembers."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.serving.config import parse_monitoring_config
from services.serving.metrics import Counter, Histogram, exponential
from services.serving.textproto import ConfigError


def test_histogram_counts_are_cumulative() -> None:
    histogram = Histogram(":a:b", ("m",), (1, 2.5))
    for value in (0.5, 1, 2, 3.5):
        histogram.observe(("x",), value)
    assert histogram.render() == [
        "# TYPE :a:b histogram",
        ':a:b_bucket{m="x",le="1"} 2',
        ':a:b_bucket{m="x",le="2.5"} 3',
        ':a:b_bucket{m="x",le="+Inf"} 4',
        ':a:b_sum{m="x"} 7',
        ':a:b_count{m="x"} 4',
    ]


def test_any_name_can_be_a_label() -> None:
    counter = Counter("c_total", ("m",))
    name = 'quote " backslash \\ newline \n \udcff'
    counter.add((name,), 3)
    (family,) = text_string_to_metric_families("\n".join(counter.render()) + "\n")
    (sample,) = family.samples
    assert (sample.labels["m"], sample.value) == (name.replace("\udcff", "?"), 3)


def test_the_least_used_labels_are_forgotten() -> None:
    counter = Counter("c", ("m",))
    counter.add(("busy",))
    for number in range(5000):
        counter.add((str(number),))
        counter.add(("busy",))
    lines = counter.render()
    assert len(lines) < 2500
    assert 'c{m="busy"} 5001' in lines


def test_the_buckets_are_tensorflow_servings() -> None:
    bounds = exponential(10, 1.8, 33)
    assert (len(bounds), bounds[0], bounds[1]) == (33, 10, 18)
    histogram = Histogram("h", (), bounds[:6])
    histogram.observe((), 1)
    assert [line.split('"')[1] for line in histogram.render()[1:7]] == [
        "10", "18", "32.4", "58.32", "104.976", "188.957",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("prometheus_config { enable: true path: '/m' }", "/m"),
        ("prometheus_config { enable: true }", "/monitoring/prometheus/metrics"),
        ("prometheus_config { path: '/m' }", None),
        ("", None),
    ],
)
def test_monitoring_config(text: str, path: str | None) -> None:
    assert parse_monitoring_config(text) == path


@pytest.mark.parametrize(
    "text", ["prometheus_config { on: true }", "prometheus_config { enable: true path: 'm' }"]
)
def test_unusable_monitoring_config(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_monitoring_config(text)
