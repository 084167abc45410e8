"""What every store promises about creating, finding and cancelling jobs."""

from __future__ import annotations

import pytest

from shared.errors import IdempotencyConflict, NotFound
from shared.jobs import JobState, MetricPoint
from shared.store import Report, Store
from tests.builders import train_spec


def test_a_created_job_is_queued_and_has_an_event(store: Store) -> None:
    job, created = store.jobs.create(train_spec(labels={"team": "vision"}, publish={"model": "m"}))
    assert created
    assert job.state is JobState.QUEUED
    assert job.model == "m"
    assert [(event.seq, event.type, event.data["to"]) for event in store.jobs.events(job.id).items] == [
        (1, "state", "queued")
    ]
    assert store.jobs.get(job.id) == job


def test_an_unknown_job_is_not_found(store: Store) -> None:
    with pytest.raises(NotFound, match="job_nope"):
        store.jobs.get("job_nope")


def test_the_same_key_and_body_give_the_same_job(store: Store) -> None:
    first, _ = store.jobs.create(train_spec(), idempotency_key="k", body_sha256="a")
    second, created = store.jobs.create(train_spec(), idempotency_key="k", body_sha256="a")
    assert not created
    assert second.id == first.id
    with pytest.raises(IdempotencyConflict):
        store.jobs.create(train_spec(), idempotency_key="k", body_sha256="b")


def test_lists_are_newest_first_and_page_without_gap_or_repeat(store: Store) -> None:
    ids = [store.jobs.create(train_spec())[0].id for _ in range(7)]
    seen: list[str] = []
    after = None
    while True:
        page = store.jobs.find(after=after, limit=3)
        seen += [job.id for job in page.items]
        if not page.has_more:
            break
        after = seen[-1]
    assert seen == sorted(ids, reverse=True)


def test_lists_filter_by_state_model_and_label(store: Store) -> None:
    wanted, _ = store.jobs.create(train_spec(labels={"team": "vision"}, publish={"model": "a"}))
    store.jobs.create(train_spec(labels={"team": "sound"}, publish={"model": "b"}))

    def found(**filters: object) -> list[str]:
        return [job.id for job in store.jobs.find(**filters).items]  # type: ignore[arg-type]

    assert found(model="a") == [wanted.id]
    assert found(label="team=vision") == [wanted.id]
    assert len(found(label="team")) == 2
    assert found(label="owner") == []
    assert len(found(state=JobState.QUEUED)) == 2
    assert found(state=JobState.RUNNING) == []
    assert len(found(kind="train")) == 2


def test_cancelling_a_queued_job_ends_it_at_once_and_again_changes_nothing(store: Store) -> None:
    job, _ = store.jobs.create(train_spec())
    assert store.jobs.request_cancel(job.id).state is JobState.CANCELLED
    assert store.jobs.request_cancel(job.id).state is JobState.CANCELLED
    assert [event.type for event in store.jobs.events(job.id).items] == ["state", "state"]
    assert store.claims.claim(job.id, "w", 30) is None


def test_cancelling_a_running_job_raises_the_flag_once(store: Store) -> None:
    job, _ = store.jobs.create(train_spec())
    taken = store.claims.claim(job.id, "w", 30)
    assert taken is not None
    assert not store.claims.cancel_requested(taken[0])
    assert store.jobs.request_cancel(job.id).cancel_requested
    store.jobs.request_cancel(job.id)
    assert store.claims.cancel_requested(taken[0])
    types = [event.type for event in store.jobs.events(job.id).items]
    assert types.count("cancel_requested") == 1


def test_events_page_by_number(store: Store) -> None:
    job, _ = store.jobs.create(train_spec())
    claim, _ = store.claims.claim(job.id, "w", 30)  # type: ignore[misc]
    for epoch in range(10):
        store.claims.report(claim, Report(events=[("epoch", {"epoch": epoch})]))
    first = store.jobs.events(job.id, limit=5)
    rest = store.jobs.events(job.id, after=first.items[-1].seq)
    assert first.has_more
    assert not rest.has_more
    numbers = [event.seq for event in [*first.items, *rest.items]]
    assert numbers == list(range(1, 13))


def test_metrics_come_back_by_step_and_long_series_are_thinned_with_their_ends_kept(store: Store) -> None:
    job, _ = store.jobs.create(train_spec())
    claim, _ = store.claims.claim(job.id, "w", 30)  # type: ignore[misc]
    points = [MetricPoint("loss", step, 1, 1.0 / step, 0.0) for step in range(1, 1001)]
    points.append(MetricPoint("acc", 5, 1, float("nan"), 0.0))
    points.append(MetricPoint("loss", 7, 1, 99.0, 0.0))  # the same step again replaces
    store.claims.report(claim, Report(points=points))
    series = {one.name: one for one in store.jobs.metrics(job.id, max_points=100)}
    assert series["acc"].points[0].value is None
    assert series["loss"].total == 1000
    steps = [point.step for point in series["loss"].points]
    assert 90 <= len(steps) <= 101
    assert (steps[0], steps[-1]) == (1, 1000)
    whole = store.jobs.metrics(job.id, names=["loss"], max_points=1000)[0]
    assert len(whole.points) == 1000
    assert whole.points[6].value == 99.0


def test_counts_by_state(store: Store) -> None:
    for _ in range(3):
        store.jobs.create(train_spec())
    job, _ = store.jobs.create(train_spec())
    store.jobs.request_cancel(job.id)
    counts = store.jobs.count_by_state()
    assert counts[JobState.QUEUED] == 3
    assert counts[JobState.CANCELLED] == 1
    assert counts[JobState.RUNNING] == 0
