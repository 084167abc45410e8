"""Records become exactly the bodies that ``shared.views`` describes: no member too few, none too many."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel

from services.api import render
from shared.checkpoint_files import CheckpointFile
from shared.jobs import Attempt, AttemptOutcome, Job, JobEvent, JobState, MetricPoint, Page
from shared.store import Dataset, Model, Series, Version, Worker
from shared.views import (
    AttemptView,
    CheckpointView,
    DatasetView,
    EventView,
    JobView,
    ModelView,
    ProgressView,
    SeriesView,
    VersionView,
    WorkerView,
)

PROGRESS = {"epoch": 2, "epochs": 4, "step": 5, "steps": 10, "metrics": {"loss": None}}
JOB = Job(
    id="job_1", kind="train", name="n", state=JobState.FAILED, stage=None, model="m", labels={"a": "b"}, spec={},
    created_at=1.5, started_at=2.0, updated_at=3.0, finished_at=4.0, attempt=1, max_attempts=3, cancel_requested=False,
    worker_id="w", lease_until=None, progress=PROGRESS, metrics={"latest": {}}, run={},
    error={"code": "c", "message": "m"}, result=None, run_dir="m/x", retry_of="job_0", resume_from=None, event_seq=3,
    attempts=(Attempt(1, "w", 2.0, 4.0, AttemptOutcome.FAILED, {"code": "c"}),),
)  # fmt: skip


@pytest.mark.parametrize(
    ("view", "body"),
    [
        (JobView, render.job(JOB)),
        (JobView, render.job_in_list(JOB)),
        (AttemptView, render.job(JOB)["attempts"][0]),
        (ProgressView, render.progress(PROGRESS)),
        (ProgressView, render.progress({})),
        (EventView, render.event(JobEvent("job_1", 1, 1.0, "info", {}))),
        (SeriesView, render.series(Series("loss", [MetricPoint("loss", 1, 1, None, 2.0)], 1))),
        (
            CheckpointView,
            render.checkpoint(
                CheckpointFile("c/1.npz", 1, 0, 9, 5, "0", {"loss": 1.0}, True, False, 2.0, None, None)
            ),
        ),
        (DatasetView, render.dataset(Dataset("ds_1", "n", "csv", 1, "0" * 64, "p", 1.0, {}))),
        (
            VersionView,
            render.version(
                Version("m", 1, None, 1.0, None, 3, {"a": None}, {}, ["x"], {}, ("stable",)), None
            ),
        ),
        (ModelView, render.model(Model("m", 1.0, None, {"stable": 1}), [1])),
        (
            WorkerView,
            render.worker(
                Worker("w", "h", 1, 1, 1.0, 2.0, 3.0, {}, ("job_1",), 4.0), alive_within=5, lease_seconds=6
            ),
        ),
    ],
)
def test_bodies_have_the_members_of_their_view(view: type[BaseModel], body: dict[str, Any]) -> None:
    assert set(body) == set(view.model_fields)
    parsed = view.model_validate_json(render.dumps(body))
    assert render.dumps(body)
    assert parsed


def test_a_share_of_all_steps_is_worked_out_when_nobody_said_it() -> None:
    shown = render.progress(PROGRESS)
    assert shown is not None
    assert shown["fraction"] == 15 / 40
    given = render.progress({**PROGRESS, "fraction": 0.5})
    assert given is not None
    assert given["fraction"] == 0.5
    assert render.progress(None) is None


def test_times_are_utc_and_pages_say_whether_there_is_more() -> None:
    body = render.dumps(render.page(Page([JOB], has_more=True), render.job_in_list))
    assert b'"created_at":"1970-01-01T00:00:01.500000Z"' in body
    assert body.endswith(b'"has_more":true}')
    assert render.everything([]) == {"items": [], "has_more": False}
