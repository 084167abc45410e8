"""Specs for tests."""

from __future__ import annotations

from typing import Any

from shared.specs import TrainJob, parse_job


def train_request(**changes: Any) -> dict[str, Any]:
    """A valid body for ``POST /jobs``."""
    return {
        "kind": "train",
        "model": {"builder": "mlp", "params": {"units": [8]}},
        "dataset": {"tfds": "fashion_mnist"},
        "fit": {"epochs": 1},
        **changes,
    }


def train_spec(**changes: Any) -> TrainJob:
    """The same, checked."""
    return parse_job(train_request(**changes))
