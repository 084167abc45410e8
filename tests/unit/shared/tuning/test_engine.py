"""The mirror: what is drawn depends on the seed and the trials before, whoever draws."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from shared.jobs import JobState
from shared.specs import TuneJob
from shared.trials import Study, Told, Trial, TrialSource, TrialStatus
from shared.tuning import pruners
from shared.tuning.engine import Asked, Engine
from tests.builders import train_request

SPACE = {
    "fit.optimizer": {"choice": ["adam", "sgd"]},
    "units": {"choice": [[16], [32, 16]]},
    "dropout": {"uniform": [0.0, 0.5]},
    "fit.learning_rate": {"loguniform": [1e-4, 1e-1]},
    "fit.batch_size": {"int": [32, 256], "step": 32},
    "fit.optimizer.params.momentum": {"uniform": [0.0, 0.9], "when": {"fit.optimizer": "sgd"}},
}


def spec(**changes: Any) -> TuneJob:
    request = {"kind": "tune", "base": train_request(fit={"epochs": 9}), "space": SPACE, **changes}
    return TuneJob.model_validate(request)


def loss(params: dict[str, Any]) -> float:
    rate = params.get("fit.learning_rate", 0.01)
    return float((params["dropout"] - 0.2) ** 2 + (math.log10(rate) + 2) ** 2)


def study(**changes: Any) -> Study:
    values: dict[str, Any] = {
        "id": "job_x", "revision": 0, "inherited": 0, "asked": 0, "complete": 0, "pruned": 0, "failed": 0,
        "cancelled": 0, "best": None, "attrs": {}, "publisher": None, "wake_at": None, "cancel_requested": False,
        "state": JobState.RUNNING,
    }  # fmt: skip
    return Study(**{**values, **changes})


def row(asked: Asked, **changes: Any) -> Trial:
    values: dict[str, Any] = {
        "study_id": "job_x", "number": asked.number, "job_id": "job_t", "source": asked.source, "params": asked.params,
        "status": TrialStatus.COMPLETE, "values": [loss(asked.params)], "intermediate": [], "attrs": asked.attrs,
        "stop_epoch": None, "asked_at": 0.0, "told_at": 1.0, "revision": 1,
    }  # fmt: skip
    return Trial(**{**values, **changes})


def drawn(engine: Engine, count: int) -> list[Asked]:
    found = []
    for _ in range(count):
        [asked] = engine.ask(1)
        engine.tell(Told(asked.number, TrialStatus.COMPLETE, [loss(asked.params)]))
        found.append(asked)
    return found


@pytest.mark.parametrize(
    ("sampler", "step"), [("random", 0.1), ("random", 3e-9), ("grid", 0.1), ("grid", 0.07)]
)
def test_another_process_takes_in_whatever_was_tried(sampler: str, step: float) -> None:
    """Steps are not exact: 0.1 + 0.1 + 0.1 is more than 0.3."""
    job = spec(sampler=sampler, space={"dropout": {"uniform": [0.0, 0.3], "step": step, "points": 4}})
    asked = Engine("job_x", job).ask(4)
    off = [replace(item, params={"dropout": item.params["dropout"] * (1 + 1e-15)}) for item in asked]
    for tried in (asked, off):
        other = Engine("job_x", job)
        other.sync(study(asked=4), [row(item) for item in tried])
        assert len(other.optuna.trials) == 4
        assert len(other.ask(1)) == (sampler != "grid")


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes", "qmc"])
def test_another_process_goes_on_with_the_same_draws(sampler: str) -> None:
    job = spec(sampler=sampler, enqueue=[{"dropout": 0.3}])
    whole = drawn(Engine("job_x", job), 30)
    first = Engine("job_x", job)
    half = drawn(first, 15)
    second = Engine("job_x", job)
    second.sync(study(attrs=first.attrs, asked=15), [row(asked) for asked in half])
    assert half + drawn(second, 15) == whole
    assert whole[0].params["dropout"] == 0.3
    assert whole[0].source is TrialSource.ENQUEUED
    assert len({str(asked.params) for asked in whole}) > 20, "it does not draw the same again and again"
    with_sgd = [asked.params for asked in whole if "fit.optimizer.params.momentum" in asked.params]
    assert all(params["fit.optimizer"] == "sgd" for params in with_sgd)
    assert all(params["fit.batch_size"] % 32 == 0 for params in (asked.params for asked in whole))
    assert all(params["units"] in ([16], [32, 16]) for params in (asked.params for asked in whole))


@pytest.mark.parametrize(("sampler", "within"), [("tpe", 0.02), ("cmaes", 0.02)])
def test_samplers_learn(sampler: str, within: float) -> None:
    found = drawn(Engine("job_x", spec(sampler=sampler, parallel=1)), 80)
    assert min(loss(asked.params) for asked in found) < within
    early = sum(loss(asked.params) for asked in found[:20])
    assert sum(loss(asked.params) for asked in found[-20:]) < early / 2


def test_a_grid_ends_and_goes_on_with_what_is_left() -> None:
    grid = {"units": {"choice": ["8", "16"]}, "dropout": {"uniform": [0.0, 0.1]}}
    engine = Engine("job_x", spec(space=grid, sampler="grid"))
    asked = engine.ask(10)
    assert [item.params["dropout"] for item in asked] == [0.0, 0.1, 0.0, 0.1]
    more = Engine("job_y", spec(space=grid, sampler="grid"))
    rows = [row(item, source=TrialSource.INHERITED, values=[0.0]) for item in asked[:3]]
    more.sync(study(inherited=3), rows)
    assert more.total(study(inherited=3)) == 1
    assert [item.params for item in more.ask(10)] == [asked[3].params]


def test_values_come_back_as_the_types_they_are() -> None:
    space = {"x": {"choice": [1, False, 2.0, "1"]}}
    base = train_request(model={"builder": "mine"})
    job = TuneJob.model_validate({"kind": "tune", "base": base, "space": space, "sampler": "grid"})
    assert [type(item.params["x"]) for item in Engine("job_x", job).ask(4)] == [int, bool, float, str]


def test_the_best_is_the_first_of_the_best() -> None:
    engine = Engine("job_x", spec(objective={"metric": "val_loss"}))
    numbers = [asked.number for asked in engine.ask(3)]
    told = [
        Told(number, TrialStatus.COMPLETE, [value])
        for number, value in zip(numbers, (2.0, 1.0, 1.0), strict=True)
    ]
    for item in told:
        engine.tell(item)
    assert engine.best(told, None) == 1
    assert engine.best(told[2:], 1) == 1
    assert engine.front() == [1, 2]


@pytest.mark.parametrize(
    "pruner",
    [
        {"name": "median", "startup_trials": 1},
        {"name": "asha", "reduction_factor": 2},
        {"name": "hyperband", "reduction_factor": 2},
        {"name": "patient", "patience": 1, "pruner": "median"},
        {"name": "patient", "patience": 1},
    ],
)
def test_pruners_end_the_worst(pruner: dict[str, Any]) -> None:
    job = spec(sampler="random", pruner=pruner, objective={"metric": "val_loss"})
    engine = Engine("job_x", job)
    kept = []
    for quality in (0.1, 0.2, 0.3, 0.4, 0.5, 5.0, 6.0, 7.0, 8.0):
        [asked] = engine.ask(1)
        values = []
        for epoch in range(1, 10):
            # the bad ones get worse
            values.append((epoch, quality / epoch if quality < 1 else quality * epoch))
            if engine.epoch(asked.number, *values[-1]).stop:
                engine.tell(Told(asked.number, TrialStatus.PRUNED, None, values))
                break
        else:
            engine.tell(Told(asked.number, TrialStatus.COMPLETE, [values[-1][1]], values))
            kept.append(quality)
    assert 0.1 in kept
    assert 8.0 not in kept


def test_what_a_pruner_remembers_is_seen_by_another_process() -> None:
    job = spec(
        sampler="random", pruner={"name": "asha", "reduction_factor": 2}, objective={"metric": "val_loss"}
    )
    here, there = Engine("job_x", job), Engine("job_x", job)
    asked = here.ask(2)
    rows = [
        row(item, status=TrialStatus.RUNNING, values=None, intermediate=None, told_at=None) for item in asked
    ]
    there.sync(study(asked=2), rows)
    verdict = here.epoch(0, 1, 0.1)
    assert verdict.changed
    there.sync(
        study(asked=2, revision=1),
        [row(asked[0], status=TrialStatus.RUNNING, values=None, attrs=verdict.attrs)],
    )
    assert there.epoch(1, 1, 9.0).stop


@pytest.mark.parametrize("sampler", ["random", "tpe", "cmaes", "qmc"])
def test_a_study_that_goes_on_draws_nothing_again(sampler: str) -> None:
    """Its trials are numbered anew: without the cancelled one, the next has the number of the last."""
    space = {"dropout": {"uniform": [0.0, 0.5]}, "fit.learning_rate": {"loguniform": [1e-4, 1e-1]}}
    first = Engine("job_x", spec(sampler=sampler, space=space))
    old = drawn(first, 6)
    second = Engine("job_y", spec(sampler=sampler, space=space, continue_from="job_x"))
    kept = [item for item in old if item.number != 2]
    rows = [row(item, number=i, source=TrialSource.INHERITED) for i, item in enumerate(kept)]
    second.sync(study(inherited=5, attrs=first.attrs), rows)
    [new] = second.ask(1)
    assert new.number == 5
    assert all(new.params != item.params for item in old)


@pytest.mark.parametrize(
    ("epochs", "most"),
    [
        ({"int": [3, 27]}, 27),
        ({"choice": ["3", 5]}, 5),
        ({"choice": [3], "when": {"dropout": 0.0}}, 9),
    ],
)
def test_hyperband_reckons_with_the_longest_trial(epochs: dict[str, Any], most: int) -> None:
    space = {"fit.epochs": epochs, "dropout": {"uniform": [0.0, 0.5]}}
    made = pruners.make(spec(space=space, pruner="hyperband"))
    assert vars(made)["_max_resource"] == most
