"""The data that all measurements train on: Fashion-MNIST, fetched once into a home that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.running import platform
from benchmarks.size import SMALL, sized

FASHION: dict[str, Any] = {
    "kind": "train",
    "model": {"builder": "lenet5"},
    "dataset": {"tfds": "fashion_mnist"},
}
ROWS, TEST_ROWS = sized(60_000, 6_000), sized(10_000, 1_000)
if SMALL:
    FASHION["dataset"] |= {"train_split": f"train[:{ROWS}]", "test_split": f"test[:{TEST_ROWS}]"}


def prepared_home(scratch: Path) -> Path:
    """A home in which Fashion-MNIST lies decoded."""
    home = scratch / "home"
    if not any((home / "cache").rglob("notes.json")):
        with platform(home) as running:
            client = running.client()
            job = client.jobs.submit({**FASHION, "fit": {"epochs": 1}})
            job.wait(timeout=600)
    return home
