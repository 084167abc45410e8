"""Reproducing jobs over HTTP."""

from __future__ import annotations

import pytest
from fastapi.testclient import TestClient

from shared.jobs import JobState
from shared.settings import Settings
from shared.store import Report, Store
from shared.views import JobView, ReproductionView
from tests.builders import train_request


def ended(
    client: TestClient, store: Store, request: dict[str, object], loss: float = 0.5, **run: object
) -> str:
    job_id = str(client.post("/jobs", json=request).json()["id"])
    finish(store, job_id, loss, **run)
    return job_id


def finish(store: Store, job_id: str, loss: float = 0.5, **run: object) -> None:
    taken = store.claims.claim(job_id, "worker", 60)
    assert taken is not None
    claim, job = taken
    store.claims.report(claim, Report(run={**job.run, "weights": "sha256:1", **run}))
    store.claims.finish(claim, JobState.SUCCEEDED, result={"metrics": {"test_loss": loss}})


def test_a_job_is_trained_again_without_publishing_and_compared(client: TestClient, store: Store) -> None:
    old = ended(client, store, train_request(publish={"model": "m"}), data={"fingerprint": "sha256:d"})
    answer = client.post(f"/jobs/{old}/reproduce", headers={"Idempotency-Key": "k"})
    assert answer.status_code == 202, answer.text
    new = JobView.model_validate_json(answer.content)
    assert (new.reproduces, new.spec["publish"], new.run["reproduces"]["data"]) == (old, None, "sha256:d")
    assert answer.headers["location"] == f"/jobs/{new.id}"
    again = client.post(f"/jobs/{old}/reproduce", headers={"Idempotency-Key": "k"})
    assert again.json()["id"] == new.id

    early = client.get(f"/jobs/{new.id}/reproduction")
    assert (early.status_code, early.json()["code"]) == (409, "nothing_to_compare")
    finish(store, new.id, 0.5, data={"fingerprint": "sha256:d"})
    found = ReproductionView.model_validate_json(client.get(new.links["reproduction"]).content)
    assert (found.outcome, found.reproduces, found.metrics["test_loss"].difference) == ("bit_equal", old, 0.0)
    assert client.get(f"/jobs/{new.id}/reproduction?tolerance=7").status_code == 422


def test_a_reproduction_that_is_retried_still_is_one(client: TestClient, store: Store) -> None:
    old = ended(client, store, train_request())
    new = client.post(f"/jobs/{old}/reproduce").json()["id"]
    client.post(f"/jobs/{new}/cancel")
    assert client.post(f"/jobs/{new}/retry").json()["reproduces"] == old


def test_only_a_train_job_that_succeeded_can_be_reproduced(client: TestClient, store: Store) -> None:
    queued = client.post("/jobs", json=train_request()).json()["id"]
    answer = client.post(f"/jobs/{queued}/reproduce")
    assert (answer.status_code, answer.json()["code"]) == (409, "job_not_reproducible")
    finish(store, queued)
    answer = client.get(f"/jobs/{queued}/reproduction")
    assert (answer.status_code, answer.json()["code"]) == (409, "nothing_to_compare")


@pytest.mark.parametrize("change", ["", "# changed"])
def test_code_that_has_changed_refuses_it(
    change: str, client: TestClient, store: Store, settings: Settings
) -> None:
    file = settings.code_dirs[0] / "net.py"
    file.write_text("def build_model(params): ...\n")
    old = ended(client, store, train_request(model={"builder": "net"}))
    file.write_text(file.read_text() + change)
    answer = client.post(f"/jobs/{old}/reproduce")
    if change:
        assert (answer.status_code, answer.json()["code"]) == (409, "code_changed")
    else:
        assert answer.status_code == 202
