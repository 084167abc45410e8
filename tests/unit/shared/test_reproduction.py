"""Two jobs compared: what counts as equal, and what is named when they are not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from shared.jobs import Job
from shared.reproduction import compare
from shared.store import Store
from shared.views import ReproductionView
from tests.builders import migrated, train_spec

RUN = {
    "versions": {"keras": "3.15.1"},
    "devices": {"logical": ["CPU:0"], "requested": {}},
    "weights": "sha256:a",
    "timings": {"entry": 1.0},
}


@pytest.fixture
def job(tmp_path: Any) -> Job:
    url = f"sqlite:///{tmp_path}/jobs.db"
    migrated(url)
    store = Store(url)
    created, _ = store.jobs.create(train_spec())
    store.close()
    return replace(
        created,
        run=RUN,
        metrics={"latest": {"loss": 0.25, "val_loss": 4.0}, "best": {}},
        result={"metrics": {"test_loss": 0.5}},
    )


def changed(job: Job, **metrics: float | None) -> Job:
    return replace(job, metrics={"latest": {**job.metrics["latest"], **metrics}, "best": {}})


def compared(old: Job, new: Job, **options: Any) -> ReproductionView:
    return ReproductionView.model_validate(compare(old, new, **options))


def deterministic(job: Job) -> Job:
    return replace(job, spec={**job.spec, "fit": {**job.spec["fit"], "deterministic": True}})


def test_equal_to_the_last_bit(job: Job) -> None:
    found = compared(job, replace(job, run={**RUN, "timings": {"entry": 2.0}}))
    assert (found.outcome, found.reproduced, found.weights_equal, found.differences) == (
        "bit_equal",
        True,
        True,
        [],
    )
    assert set(found.metrics) == {"loss", "val_loss", "test_loss"}


def test_the_last_bit_is_owed_by_a_deterministic_job_only(job: Job) -> None:
    near = changed(job, loss=0.25 + 1e-9)
    assert (compared(job, near).outcome, compared(job, near).reproduced) == ("within_tolerance", True)
    assert not compared(deterministic(job), near).reproduced
    elsewhere = replace(near, run={**RUN, "versions": {"keras": "3.16.0"}})
    found = compared(deterministic(job), elsewhere)
    assert found.reproduced, "another Keras owes no equal bits"
    assert [(item.what, item.before, item.after) for item in found.differences] == [
        ("versions.keras", "3.15.1", "3.16.0")
    ]


def test_equal_metrics_with_other_weights_are_not_bit_equal(job: Job) -> None:
    found = compared(job, replace(job, run={**RUN, "weights": "sha256:b"}))
    assert (found.outcome, found.weights_equal) == ("within_tolerance", False)


@pytest.mark.parametrize(
    ("metrics", "tolerance", "outcome"),
    [
        ({"val_loss": 4.04}, 0.02, "within_tolerance"),  # relative, being over 1
        ({"loss": 0.28}, 0.02, "different"),
        ({"loss": 0.28}, 0.05, "within_tolerance"),
        ({"loss": None}, 0.02, "different"),
        ({"loss": float("nan")}, 0.02, "different"),
        ({"more": 1.0}, 0.02, "different"),
    ],
)
def test_tolerance(job: Job, metrics: dict[str, float | None], tolerance: float, outcome: str) -> None:
    assert compared(job, changed(job, **metrics), tolerance=tolerance).outcome == outcome


def test_a_metric_that_is_not_finite_in_both_is_equal(job: Job) -> None:
    both = changed(job, loss=None)
    assert compared(both, both).outcome == "bit_equal"
