"""Requests counted by what they have in common."""

from __future__ import annotations

from types import SimpleNamespace

import orjson
import pytest

from services.serving import telemetry as module
from services.serving.errors import Code
from services.serving.tally import Key, Sums, Tally
from services.serving.telemetry import Telemetry
from services.serving.trace import Trace


def test_sums_survive_the_way_to_another_process() -> None:
    tally = Tally()
    key = Key("m", 1, "serving_default", "predict", "REST")
    for seconds in (0.0001, 0.003, 100.0):
        tally.note(key, seconds, seconds / 2, 10, 20)
    ((found, sums),) = tally.take()
    assert found == key
    assert (sums.requests, sums.bytes_in, sums.bytes_out) == (3, 30, 60)
    assert Sums.from_json(orjson.loads(orjson.dumps(sums.as_json()))) == sums
    assert not list(tally.take())


def test_metrics_do_not_tell_by_which_way_a_request_was_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: 1000.0))
    pages = []
    for quickly in (True, False):
        telemetry = Telemetry()
        for seconds in (0.0001, 0.003, 100.0):
            trace = Trace("REST", "predict", "m", version=1, signature="serving_default", request_bytes=7)
            trace.runtime, trace.began = 0.001, 1000.0 - seconds
            if quickly:
                telemetry.finish_quickly(trace, 9)
            else:
                telemetry.finish(trace, Code.OK, 9)
        lines = telemetry.render().decode().splitlines()
        pages.append([line for line in lines if not line.startswith(("process_", "# "))])
    assert pages[0] == pages[1]
    assert any("request_count{" in line and line.endswith(" 3") for line in pages[0])
