"""Drawing a target by weight, and the judgement of a guard."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.api.guard import Guards, Summary, Window, judge
from services.api.routing import Choice, draw
from services.api.shadow import alike
from shared.specs.traffic import Guard, LabelRoute

SPLIT = LabelRoute(split={"stable": 90, "canary": 10})


def test_shares_are_kept_for_keys_and_for_chance() -> None:
    by_key = Counter(draw(SPLIT, "m/live", f"caller {number}") for number in range(20_000))
    by_chance = Counter(draw(SPLIT, "m/live", None) for _ in range(20_000))
    for found in (by_key, by_chance):
        assert 0.085 < found["canary"] / 20_000 < 0.115


def test_a_key_stays_on_its_side_and_joins_only_as_a_weight_grows() -> None:
    keys = [f"user-{number}" for number in range(2_000)]
    before = {key for key in keys if draw(SPLIT, "s", key) == "canary"}
    assert before == {key for key in keys if draw(SPLIT, "s", key) == "canary"}
    grown = LabelRoute(split={"stable": 70, "canary": 30})
    assert before < {key for key in keys if draw(grown, "s", key) == "canary"}
    assert before != {key for key in keys if draw(SPLIT, "another label", key) == "canary"}


@given(
    st.dictionaries(st.integers(1, 99).map(str), st.floats(0, 1e6), min_size=1, max_size=10),
    st.text(max_size=20),
)
def test_a_target_of_weight_zero_is_never_drawn(weights: dict[str, float], key: str) -> None:
    if not sum(weights.values()) > 0:
        return
    route = LabelRoute(split=weights)
    assert weights[draw(route, "m/l", key)] > 0
    assert weights[draw(route, "m/l", None)] > 0


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({}, "one of 'version' and 'split'"),
        ({"version": 1, "split": {"1": 1}}, "one of 'version' and 'split'"),
        ({"split": {}}, "1 to 10 targets"),
        ({"split": {str(n): 1 for n in range(1, 12)}}, "1 to 10 targets"),
        ({"split": {"1": 0, "2": 0}}, "all weights"),
        ({"split": {"0": 1}}, "neither a version"),
        ({"split": {"a b": 1}}, "neither a version"),
        ({"split": {"1": 1, "01": 1}}, "named twice"),
        ({"version": 1, "guard": {}}, "at least one of"),
        ({"version": 1, "shadow": {"to": "../x"}}, "neither a version"),
    ],
)
def test_a_route_that_makes_no_sense_is_refused(body: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        LabelRoute.model_validate(body)


def test_a_window_forgets_and_finds_its_percentile() -> None:
    window = Window()
    for number in range(100):
        window.add(10.0, ok=number % 10 != 0, seconds=0.010 if number < 94 else 1.0)
    found = window.summary(11.0, 60)
    assert (found.requests, found.failed) == (100, 10)
    assert 0.9 < found.p95 < 1.1
    assert window.summary(200.0, 60) == Summary()


def test_errors_that_both_sides_have_count_against_nobody() -> None:
    guard = Guard(max_error_rate=0.05, min_requests=10)
    both = {"stable": Summary(900, 90, 0.01), "canary": Summary(100, 12, 0.01)}
    assert judge(SPLIT, guard, both) is None
    found = judge(SPLIT, guard, {**both, "canary": Summary(100, 20, 0.01)})
    assert found is not None
    assert found[0] == "canary"
    assert "20.0% of 100 requests failed" in found[1]["reason"]


def test_too_few_requests_decide_nothing_and_the_heaviest_is_no_newcomer() -> None:
    guard = Guard(max_error_rate=0.05, min_requests=10)
    assert judge(SPLIT, guard, {"canary": Summary(9, 9, 0.01)}) is None
    assert judge(SPLIT, guard, {"stable": Summary(100, 100, 0.01), "canary": Summary(100, 0, 0.01)}) is None


@pytest.mark.parametrize(
    ("guard", "canary", "leaves"),
    [
        (Guard(max_p95_ms=50), Summary(100, 0, 0.049), False),
        (Guard(max_p95_ms=50), Summary(100, 0, 0.060), True),
        (Guard(max_p95_ratio=2), Summary(100, 0, 0.019), False),
        (Guard(max_p95_ratio=2), Summary(100, 0, 0.030), True),
    ],
)
def test_latency_has_bounds_too(guard: Guard, canary: Summary, leaves: bool) -> None:
    found = judge(SPLIT, guard, {"stable": Summary(100, 0, 0.010), "canary": canary})
    assert (found is not None) == leaves


def test_a_guard_acts_once_per_route() -> None:
    acted: list[str] = []
    guards = Guards(lambda model, label, route, target, reason: acted.append(target), clock=lambda: 5.0)
    route = LabelRoute(split={"1": 9, "2": 1}, guard=Guard(max_error_rate=0.5, min_requests=3))
    for _ in range(20):
        guards.report("m", Choice(2, "live", "2", route), ok=False, seconds=0.01)
    assert acted == []  # looked at once, before there were enough
    clock = iter(range(100, 1000))
    guards = Guards(
        lambda model, label, route, target, reason: acted.append(target), clock=lambda: next(clock) / 10
    )

    def fail(times: int) -> None:
        for _ in range(times):
            guards.report("m", Choice(2, "live", "2", route), ok=False, seconds=0.01)

    fail(20)
    assert acted == ["2"]
    assert guards.summaries("m", "live")["2"]["error_rate"] == 1.0
    guards.report("m", Choice(1, "live", "1", LabelRoute(version=1)), ok=True, seconds=0.01)
    fail(20)
    assert acted == ["2", "2"], "the very route was set again"
    fail(60)
    assert acted == ["2", "2", "2"], "and again, before anything else came by"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ({"predictions": [[0.1, 0.9]]}, {"predictions": [[0.1000001, 0.9]]}, True),
        ({"predictions": [[0.1, 0.9]]}, {"predictions": [[0.2, 0.8]]}, False),
        ({"predictions": [1]}, {"outputs": [1]}, False),
        ([1, 2], [1], False),
        ([True], [1], False),
        (["a", None], ["a", None], True),
    ],
)
def test_answers_are_alike_up_to_rounding(one: Any, other: Any, same: bool) -> None:
    assert alike(one, other) == same
