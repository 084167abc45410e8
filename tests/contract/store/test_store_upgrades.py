"""A database of every earlier schema, with rows as they were then, is brought up to date and read by today's code."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from alembic.script import ScriptDirectory
from sqlalchemy import JSON, MetaData, insert

from shared.jobs import AttemptOutcome, JobState
from shared.specs import parse_job
from shared.store import Database, Store, current_revision, head_revision, migrate
from shared.store.migrate import _config
from tests.builders import train_request

REVISIONS = [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()][::-1]
THEN = 1_700_000_000.0

# As the first release wrote it: without the members that came later.
OLD_SPEC: dict[str, Any] = {
    "kind": "train",
    "name": "old",
    "labels": {"team": "vision"},
    "model": {"builder": "mlp", "params": {"units": [8]}},
    "dataset": {"tfds": "fashion_mnist"},
    "fit": {"epochs": 2},
    "publish": {"model": "fashion", "label": "stable"},
    "retry": {"max_attempts": 3},
}


def _job(number: int, state: str, **more: Any) -> dict[str, Any]:
    return {
        "id": f"job_{number:022d}",
        "kind": "train",
        "name": "old",
        "state": state,
        "labels": OLD_SPEC["labels"],
        "spec": OLD_SPEC,
        "model": "fashion",
        "created_at": THEN + number,
        "updated_at": THEN + number,
        "max_attempts": 3,
        "metrics": {},
        "run": {},
        "event_seq": 1,
        **more,
    }


QUEUED, RUNNING, DONE, FAILED = (f"job_{number:022d}" for number in range(1, 5))
ROWS: dict[str, list[dict[str, Any]]] = {
    "jobs": [
        _job(1, "queued"),
        _job(2, "running", attempt=1, claim_token="clm_old", worker_id="old-1", lease_until=THEN, stage="training"),
        _job(
            3,
            "succeeded",
            attempt=1,
            started_at=THEN,
            finished_at=THEN + 60,
            run_dir="fashion/old",
            metrics={"latest": {"loss": 0.5}},
            result={"model": "fashion", "version": 1, "metrics": {"loss": 0.5}, "epochs": 2},
        ),
        _job(4, "failed", attempt=1, finished_at=THEN, error={"code": "nan_loss", "message": "The loss is NaN."}),
    ],
    "attempts": [
        {"job_id": RUNNING, "number": 1, "worker_id": "old-1", "started_at": THEN},
        {"job_id": DONE, "number": 1, "worker_id": "old-1", "started_at": THEN, "finished_at": THEN + 60,
         "outcome": "succeeded"},
    ],
    "job_events": [{"job_id": DONE, "seq": 1, "at": THEN, "type": "state", "data": {"to": "queued"}}],
    "job_metrics": [{"job_id": DONE, "name": "loss", "step": 1, "epoch": 1, "value": 0.5, "at": THEN}],
    "job_labels": [{"key": "team", "value": "vision", "job_id": DONE}],
    "idempotency_keys": [{"key": "k", "body_sha256": "0" * 64, "job_id": DONE, "created_at": THEN}],
    "datasets": [
        {"id": f"ds_{1:022d}", "name": "old.csv", "kind": "csv", "size_bytes": 3, "sha256": "1" * 64,
         "path": "x/old.csv", "created_at": THEN, "info": {"rows": 1}}
    ],
    "models": [{"name": "fashion", "created_at": THEN, "last_version": 1}],
    "model_versions": [
        {"model": "fashion", "version": 1, "job_id": DONE, "created_at": THEN, "size_bytes": 9,
         "metrics": {"loss": 0.5}, "signatures": {}, "lineage": {}}
    ],
    "model_labels": [{"model": "fashion", "label": "stable", "version": 1, "updated_at": THEN}],
    "workers": [
        {"id": "old-1", "host": "old", "pid": 1, "slots": 1, "started_at": THEN, "heartbeat_at": THEN, "info": {}}
    ],
    # of later schemas
    "studies": [{"job_id": FAILED, "attrs": {}}],
    "projects": [{"name": "vision", "max_running": 2}],
    "api_keys": [
        {"id": f"key_{1:022d}", "name": "old", "prefix": "abc", "sha256": "2" * 64, "role": "viewer", "limits": {},
         "created_at": THEN, "created_by": "local"}
    ],
}  # fmt: skip


@pytest.fixture(params=["sqlite", "postgresql"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    return str(request.getfixturevalue("postgres_url"))


@pytest.fixture(params=REVISIONS)
def store(empty: str, request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store that was filled at an earlier revision, and upgraded."""
    migrate(empty, request.param)
    db = Database(empty)
    with db.write() as tx:
        tables = MetaData()
        tables.reflect(bind=tx)
        for name, rows in ROWS.items():
            table = tables.tables.get(name)
            if table is None:
                continue
            for column in table.columns:  # SQLite's JSON is reflected as such, PostgreSQL's as its own type
                if isinstance(column.type, JSON):
                    column.type = JSON(none_as_null=True)
            for row in rows:
                tx.execute(insert(table).values(row))
    db.dispose()
    migrate(empty)
    assert current_revision(empty) == head_revision()
    opened = Store(empty)
    yield opened
    opened.close()


def test_rows_of_every_earlier_schema_are_read_and_worked_with_today(store: Store) -> None:
    jobs = {job.id: job for job in store.jobs.find(limit=10).items}
    assert set(jobs) == {QUEUED, RUNNING, DONE, FAILED}
    assert all((job.project, job.priority, job.queue) == ("default", 0, "default") for job in jobs.values())
    done = store.jobs.get(DONE)
    assert (done.state, (done.result or {})["version"]) == (JobState.SUCCEEDED, 1)
    assert done.attempts[0].outcome is AttemptOutcome.SUCCEEDED
    assert [event.type for event in store.jobs.events(DONE).items] == ["state"]
    assert store.jobs.metrics(DONE)[0].points[0].value == 0.5
    assert [job.id for job in store.jobs.find(label="team=vision").items] == [DONE]
    assert parse_job(done.spec).publish is not None
    assert store.jobs.get(FAILED).error == {"code": "nan_loss", "message": "The loss is NaN."}
    assert store.datasets.get(f"ds_{1:022d}").info == {"rows": 1}
    model = store.models.get("fashion")
    assert (model.latest_version, model.labels, model.next_version) == (1, {"stable": 1}, 2)
    assert store.models.version("fashion", 1).labels == ("stable",)
    assert store.labels.get("fashion", "stable").route.version == 1
    (worker,) = store.workers.find()
    assert (worker.queues, worker.draining, worker.jobs) == (("default",), None, (RUNNING,))
    # and life goes on: what ran is found lost, and both are taken up
    assert store.claims.sweep().requeued == [RUNNING]
    taken = [store.claims.claim_next("new", ("default",), 30) for _ in range(2)]
    assert [found[0].job_id for found in taken if found] == [QUEUED, RUNNING]
    for found in taken:
        assert found is not None
        store.claims.finish(found[0], JobState.SUCCEEDED)
    new, created = store.jobs.create(parse_job(train_request()))
    assert created
    assert store.census.take(alive_within=60).states[JobState.QUEUED] == 1
    assert new.id > DONE
