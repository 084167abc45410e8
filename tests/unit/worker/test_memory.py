"""Which batch size is named after memory ran out."""

from __future__ import annotations

import resource
import subprocess
import sys
from typing import Any

import pytest

from services.worker import memory
from services.worker.memory import Footprint

MB = 10**6


def footprint(*, row: int = MB, gradients: int = 0, available: int = 100 * MB) -> Footprint:
    return Footprint(row_bytes=row, gradient_bytes=gradients, available_bytes=available)


@pytest.mark.parametrize(
    ("failed", "replicas", "free", "expected"),
    [
        (1000, 1, 100 * MB, 32),  # 60 MB are planned with
        (1000, 2, 100 * MB, 16),
        (1000, 1, 1000 * MB, 256),  # never more than half of what failed
        (1000, 1, 2 * MB, 1),
        (1000, 1, MB, None),
        (1, 1, 100 * MB, None),
    ],
)
def test_a_fitting_batch(failed: int, replicas: int, free: int, expected: int | None) -> None:
    assert memory.fitting_batch(footprint(), failed=failed, replicas=replicas, free=free) == expected


def run(**changes: Any) -> dict[str, Any]:
    return {"model": {"name": "m"}, "replicas": 1, "memory": footprint().facts(), **changes}


def test_hints_name_a_number_and_where_it_comes_from() -> None:
    hint = memory.batch_hint("oom_host", 1000, run())
    assert hint.startswith(
        "Use fit.batch_size 32: its steps take about 32 MB of the 100 MB that were free, those of 1000"
    )
    assert "1.0 GB" in hint


def test_hints_without_an_estimate_halve() -> None:
    assert memory.batch_hint("oom_host", 64, run(memory=None)).startswith("Try fit.batch_size 32, half of")
    assert memory.batch_hint("oom_gpu", 64, run()).startswith("Try fit.batch_size 32, half of")
    assert memory.batch_hint("oom_host", 1, run(memory=None)).startswith("Setting dataset.cache")


def test_hints_for_a_gpu_count_its_memory_and_one_replica() -> None:
    facts = {**footprint().facts(), "gpu_bytes": 50 * MB}
    assert "fit.batch_size 16:" in memory.batch_hint("oom_gpu", 1000, run(memory=facts, replicas=4))


def test_hints_where_no_batch_helps() -> None:
    assert "no batch fits" in memory.batch_hint(
        "oom_host", 8, run(memory=footprint(gradients=99 * MB).facts())
    )
    assert "dataset.cache to false" in memory.batch_hint("oom_host", 8, {})


def test_a_limit_on_the_process_counts() -> None:
    code = "from services.worker import memory; print(memory.available_bytes())"
    limit = 300 * 2**20

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    said = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=limited, check=True
    )
    assert 0 < int(said.stdout) < limit < memory.available_bytes()
