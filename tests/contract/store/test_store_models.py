"""What every store promises about published models, datasets and workers."""

from __future__ import annotations

from pathlib import Path

import pytest

from shared.errors import Conflict, NotFound
from shared.jobs import Claim
from shared.model_repo import ModelRepo
from shared.store import Store
from tests.builders import train_spec
from tests.contract.store.publishing import PUBLICATION
from tests.contract.store.racing import RACING


def a_claim(store: Store) -> Claim:
    job, _ = store.jobs.create(train_spec(publish={"model": "m"}))
    taken = store.claims.claim(job.id, "w", 30)
    assert taken is not None
    return taken[0]


def test_versions_count_up_and_are_never_used_again(store: Store) -> None:
    for expected in (1, 2):
        assert store.models.publish(a_claim(store), "m", PUBLICATION, place=lambda lowest: lowest) == expected
    store.models.delete_version("m", 2)
    assert store.models.get("m").latest_version == 1
    assert store.models.publish(a_claim(store), "m", PUBLICATION, place=lambda lowest: lowest) == 3
    assert [version.version for version in store.models.versions("m").items] == [3, 1]
    with pytest.raises(NotFound):
        store.models.version("m", 2)


def test_a_publish_that_fails_in_placing_leaves_no_trace(store: Store) -> None:
    def fails(_: int) -> int:
        raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        store.models.publish(a_claim(store), "m", PUBLICATION, place=fails)
    with pytest.raises(NotFound):
        store.models.get("m")


def _publish(arguments: tuple[str, str, Claim]) -> int:
    url, root, claim = arguments
    store, repo = Store(url), ModelRepo(Path(root))
    export = Path(root) / f".export-{claim.job_id}"
    export.mkdir()
    (export / "saved_model.pb").write_bytes(b"x")
    staged = repo.stage("m", claim.job_id, claim.attempt, export, {})
    try:
        return store.models.publish(
            claim, "m", PUBLICATION, place=lambda lowest: repo.place("m", staged, claim.job_id, lowest)
        )
    finally:
        store.close()


def test_jobs_that_publish_to_one_model_at_once_get_versions_without_a_gap(
    url: str, store: Store, tmp_path: Path
) -> None:
    claims = [a_claim(store) for _ in range(8)]
    with RACING.Pool(4) as pool:
        versions = pool.map(_publish, [(url, str(tmp_path), claim) for claim in claims])
    assert sorted(versions) == list(range(1, 9))
    repo = ModelRepo(tmp_path)
    assert repo.versions("m") == list(range(1, 9))
    for version in store.models.versions("m").items:
        assert repo.manifest("m", version.version)["job_id"] == version.job_id


def test_files_made_visible_by_an_attempt_that_died_are_adopted(store: Store, tmp_path: Path) -> None:
    claim, repo = a_claim(store), ModelRepo(tmp_path / "models")
    export = tmp_path / "export"
    export.mkdir()

    def place(lowest: int) -> int:
        staged = repo.stage("m", claim.job_id, claim.attempt, export, {})
        return repo.place("m", staged, claim.job_id, lowest)

    def dies(lowest: int) -> int:
        place(lowest)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.models.publish(claim, "m", PUBLICATION, place=dies)
    assert repo.versions("m") == [1]
    assert store.models.published_by(claim.job_id) is None
    assert store.models.publish(claim, "m", PUBLICATION, place=place) == 1
    assert repo.versions("m") == [1]
    assert store.models.published_by(claim.job_id) == ("m", 1)


def test_models_page_by_name(store: Store) -> None:
    for name in ("b", "a", "c"):
        store.models.publish(a_claim(store), name, PUBLICATION, place=lambda lowest: lowest)
    page = store.models.find(limit=2)
    assert [model.name for model in page.items] == ["a", "b"]
    assert page.has_more
    assert [model.name for model in store.models.find(after="b").items] == ["c"]


def test_a_dataset_in_use_is_not_deleted(store: Store) -> None:
    dataset = store.datasets.add(name="d", kind="npz", size_bytes=3, sha256="ab", path="x/d.npz", info={})
    assert store.datasets.by_hash("ab", "npz") == dataset
    assert store.datasets.by_hash("ab", "csv") is None
    job, _ = store.jobs.create(train_spec(dataset={"npz": dataset.id}))
    with pytest.raises(Conflict, match=job.id):
        store.datasets.delete(dataset.id)
    store.jobs.request_cancel(job.id)
    store.datasets.delete(dataset.id)
    with pytest.raises(NotFound):
        store.datasets.get(dataset.id)


def test_workers_are_known_by_their_heartbeat_and_their_jobs(store: Store) -> None:
    store.workers.beat("w", host="h", pid=1, slots=2, started_at=0.0, info={"devices": []})
    claim = a_claim(store)
    worker = store.workers.find()[0]
    assert worker.jobs == (claim.job_id,)
    assert worker.age < 5
    assert store.workers.count_alive(within_seconds=10) == 1
    store.workers.leave("w")
    assert store.workers.find() == []
