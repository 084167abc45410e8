"""What every store promises about labels: routes, history, and which versions must be loaded."""

from __future__ import annotations

import threading

import pytest
from sqlalchemy import update

from shared.errors import Conflict, NotFound
from shared.specs.traffic import LabelRoute
from shared.store import Store, Wanted
from shared.store.label_rows import RELEASE_SECONDS, ModelState
from shared.store.labels import HISTORY
from shared.store.schema import models
from tests.contract.store.publishing import publish


def to(version: int) -> LabelRoute:
    return LabelRoute(version=version)


@pytest.fixture
def three(store: Store) -> Store:
    """A model ``m`` with versions 1, 2 and 3."""
    for _ in range(3):
        publish(store, "m")
    return store


def wanted(store: Store, model: str = "m") -> Wanted:
    return next(item for item in store.labels.wanted() if item.model == model)


def later(store: Store, seconds: float) -> None:
    """Let all that was released have been released ``seconds`` earlier."""
    with store._db.write() as tx:
        for row in tx.execute(models.select()).all():
            released = {key: when - seconds for key, when in (row.traffic or {}).get("released", {}).items()}
            traffic = {**(row.traffic or {}), "released": released}
            tx.execute(update(models).where(models.c.name == row.name).values(traffic=traffic))


def test_a_label_points_at_versions_that_exist_and_protects_them(three: Store) -> None:
    with pytest.raises(NotFound):
        three.labels.put("m", "stable", to(9))
    with pytest.raises(NotFound):
        three.labels.put("n", "stable", to(1))
    assert three.labels.put("m", "stable", to(1)).version == 1
    assert three.models.version("m", 1).labels == ("stable",)
    assert three.models.get("m").labels == {"stable": 1}
    with pytest.raises(Conflict, match="stable"):
        three.models.delete_version("m", 1)
    three.labels.delete("m", "stable")
    three.labels.delete("m", "stable")
    with pytest.raises(NotFound, match="stable"):
        three.labels.get("m", "stable")
    three.models.delete_version("m", 1)


def test_each_target_of_a_split_is_protected_and_loaded(three: Store) -> None:
    three.labels.put("m", "live", LabelRoute(split={"1": 90, "2": 10}, shadow={"to": "3"}))
    for version in (1, 2, 3):
        with pytest.raises(Conflict):
            three.models.delete_version("m", version)
    assert wanted(three).versions == {1, 2, 3}
    assert wanted(three).labels == {}, "a model server can't split"
    assert three.models.get("m").labels == {"live": 1}


def test_a_label_of_labels_follows_them(three: Store) -> None:
    three.labels.put("m", "stable", to(1))
    three.labels.put("m", "canary", to(2))
    three.labels.put("m", "live", LabelRoute(split={"stable": 90, "canary": 10}))
    traffic = three.labels.traffic("m")
    assert (traffic.versions("stable"), traffic.versions("canary"), traffic.versions("gone")) == (
        [1],
        [2],
        [],
    )
    three.labels.put("m", "canary", to(3))
    assert three.labels.traffic("m").versions("canary") == [3]
    with pytest.raises(Conflict, match="itself"):
        three.labels.put("m", "live", LabelRoute(split={"live": 1, "2": 1}))
    with pytest.raises(Conflict, match="splits"):
        three.labels.put("m", "other", LabelRoute(split={"live": 1, "2": 1}))
    with pytest.raises(NotFound, match="nobody"):
        three.labels.put("m", "other", LabelRoute(split={"nobody": 1, "2": 1}))


def test_only_the_newest_is_wanted_without_labels(three: Store) -> None:
    publish(three, "n")
    assert {item.model: item.versions for item in three.labels.wanted()} == {"m": {3}, "n": {1}}
    assert wanted(three).only_newest
    for version in (1, 2, 3):
        three.models.delete_version("m", version)
    assert [item.model for item in three.labels.wanted()] == ["n"]


def test_what_is_released_stays_loaded_for_a_moment(three: Store) -> None:
    three.labels.put("m", "stable", to(1))
    three.labels.put("m", "stable", to(2))
    assert wanted(three).versions == {1, 2, 3}
    assert three.labels.settling(60)
    later(three, RELEASE_SECONDS)
    assert wanted(three).versions == {2, 3}


def test_a_version_still_named_elsewhere_is_not_released(three: Store) -> None:
    three.labels.put("m", "stable", to(1))
    three.labels.put("m", "old", to(1))
    three.labels.put("m", "stable", to(2))
    later(three, RELEASE_SECONDS)
    assert wanted(three).versions == {1, 2, 3}
    three.labels.delete("m", "old")
    later(three, RELEASE_SECONDS)
    assert wanted(three).versions == {2, 3}


def test_a_prepared_change_wants_its_versions_until_it_ends(three: Store) -> None:
    three.labels.prepare("m", "stable", [1, 2])
    assert wanted(three).versions == {1, 2, 3}
    three.labels.abandon("m", "stable")
    assert wanted(three).versions == {3}
    three.labels.prepare("m", "stable", [1])
    three.labels.put("m", "stable", to(1))
    three.labels.delete("m", "stable")
    later(three, RELEASE_SECONDS)
    assert wanted(three).versions == {3}


def test_history_is_kept_bounded_and_walked_back(three: Store) -> None:
    for number in range(HISTORY + 5):
        three.labels.put("m", "stable", to(1 + number % 3))
    label = three.labels.get("m", "stable")
    assert len(label.history) == HISTORY
    before = LabelRoute.model_validate(label.history[-1]["route"])
    back = three.labels.put("m", "stable", before, why="rollback", back=True)
    assert back.route == before
    assert len(back.history) == HISTORY - 1
    three.labels.put("m", "stable", before)
    assert len(three.labels.get("m", "stable").history) == HISTORY - 1, "the same again is no change"


def test_withdrawing_takes_one_target_out_once(three: Store) -> None:
    split = LabelRoute(split={"1": 90, "2": 10}, guard={"max_error_rate": 0.1})
    three.labels.put("m", "live", split)
    reason = {"reason": "it fails"}
    three.labels.put("m", "live", to(3))
    three.labels.put("m", "live", split)
    assert three.labels.withdraw("m", "live", split, "2", reason)
    assert [item["route"]["version"] for item in three.labels.get("m", "live").history[1:]] == [3], (
        "a rollback brings back what was before, not what was withdrawn"
    )
    assert not three.labels.withdraw("m", "live", split, "2", reason), "the route is another by now"
    assert three.labels.get("m", "live").route == to(1)
    last = three.labels.events("m").items[-1]
    assert (last.type, last.data["target"], last.data["reason"]) == ("withdrawn", "2", "it fails")


def test_withdrawing_the_only_version_goes_back_to_the_one_before(three: Store) -> None:
    three.labels.put("m", "live", to(1))
    guarded = LabelRoute(version=2, guard={"max_error_rate": 0.1})
    three.labels.put("m", "live", guarded)
    assert three.labels.withdraw("m", "live", guarded, "2", {"reason": "x"})
    assert three.labels.get("m", "live").route == to(1)
    alone = LabelRoute(version=3, guard={"max_error_rate": 0.1})
    three.labels.put("m", "new", alone)
    assert not three.labels.withdraw("m", "new", alone, "3", {"reason": "x"}), "there is nothing before it"


def test_withdrawing_leads_to_no_version_that_is_gone(three: Store) -> None:
    three.labels.put("m", "live", to(1))
    guarded = LabelRoute(version=2, guard={"max_error_rate": 0.1})
    three.labels.put("m", "live", guarded)
    three.models.delete_version("m", 1)
    assert not three.labels.withdraw("m", "live", guarded, "2", {"reason": "x"})
    assert three.labels.get("m", "live").route == guarded


def test_the_default_is_no_version_that_is_gone(three: Store) -> None:
    three.models.delete_version("m", 2)
    with pytest.raises(NotFound, match="version 2"):
        three.labels.set_default("m", 2, why="rollback")
    assert three.labels.traffic("m").default is None


def test_a_version_to_which_a_label_is_just_coming_is_not_deleted(three: Store) -> None:
    deleted: list[object] = []

    def delete() -> None:
        try:
            deleted.append(three.models.delete_version("m", 2))
        except Conflict as error:
            deleted.append(error.code)

    thread = threading.Thread(target=delete)
    with three._db.write() as tx:  # half of what ``put`` does
        state = ModelState(three._db, tx, "m")
        thread.start()
        thread.join(0.2)
        three.labels._write(tx, state, "live", to(2), 2, None, back=False)
        state.save()
    thread.join(30)
    assert deleted == ["version_labelled"]


def test_a_default_holds_requests_back_until_the_next_publish(three: Store) -> None:
    three.labels.set_default("m", 2, why="rollback")
    assert three.labels.traffic("m").default == three.models.get("m").default_version == 2
    assert wanted(three).versions == {2, 3}
    with pytest.raises(Conflict, match="default"):
        three.models.delete_version("m", 2)
    three.labels.published("m", 2)
    assert three.labels.traffic("m").default == 2
    three.labels.published("m", 4)
    assert three.labels.traffic("m").default is None


def test_events_count_up_and_page(three: Store) -> None:
    for number in range(5):
        three.labels.put("m", "stable", to(1 + number % 2))
    page = three.labels.events("m", after=1, limit=3)
    assert ([item.seq for item in page.items], page.has_more) == ([2, 3, 4], True)
    assert not three.labels.events("m", after=5).items
    with pytest.raises(NotFound):
        three.labels.events("n")


def test_nothing_is_known_of_unknown_models(store: Store) -> None:
    assert store.labels.traffic("nobody").labels == {}
    assert not store.labels.settling(60)
    assert list(store.labels.wanted()) == []
