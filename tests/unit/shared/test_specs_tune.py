"""Tune jobs as a person writes them: spaces, paths into the base job, what is refused and where."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from shared.specs import TuneJob, parse_job
from shared.specs.space import Space, grid, in_order
from tests.builders import train_request


def tune_request(**changes: Any) -> dict[str, Any]:
    base = train_request(**changes.pop("base", {}))
    return {"kind": "tune", "base": base, "space": {"units": {"choice": ["16", "32"]}}, **changes}


def tune(**changes: Any) -> TuneJob:
    found = parse_job(tune_request(**changes))
    assert isinstance(found, TuneJob)
    return found


def space(**parameters: Any) -> Any:
    return TypeAdapter(Space).validate_python(parameters)


TEXTBOOK = {
    "units": {"choice": ["128,64", "256,128"]},
    "dropout": {"uniform": [0.0, 0.1]},
    "fit.optimizer": {"choice": ["adam", "sgd"]},
}


def test_the_textbooks_grid_takes_both_ends() -> None:
    job = tune(space=TEXTBOOK, sampler="grid")
    assert job.trials == 8
    assert job.points[0] == {"units": "128,64", "dropout": 0.0, "fit.optimizer": "adam"}
    assert job.points[-1] == {"units": "256,128", "dropout": 0.1, "fit.optimizer": "sgd"}
    trained = job.assigned(job.points[-1])
    assert trained.model.typed_params().units == [256, 128]
    assert trained.fit.optimizer.name == "sgd"


def test_what_is_tried_first_in_a_grid_is_not_tried_again() -> None:
    first = {"units": "256,128", "dropout": 0, "fit.optimizer": "sgd"}
    job = tune(space=TEXTBOOK, sampler="grid", enqueue=[first])
    assert job.trials == 8
    assert {**first, "dropout": 0.0} not in job.points
    assert job.trials_after(job.points[:3]) == 5
    assert tune(space=TEXTBOOK, sampler="grid", max_trials=4).trials_after(job.points[:5]) == 3
    assert tune(space=TEXTBOOK, sampler="tpe").trials_after(job.points) == 20


def test_a_stored_job_reads_back_the_same() -> None:
    job = tune(
        space={**TEXTBOOK, "fit.batch_size": {"int": [16, 64], "step": 16}}, pruner="successive_halving"
    )
    assert parse_job(job.model_dump(mode="json")) == job


@pytest.mark.parametrize(
    ("parameter", "values"),
    [
        ({"choice": [1, "a", None, [2]]}, [1, "a", None, [2]]),
        ({"int": [1, 8], "step": 3}, [1, 4, 7]),
        ({"int": [1, 100], "points": 3}, [1, 51, 100]),
        ({"int": [1, 100], "log": True, "points": 3}, [1, 10, 100]),
        ({"uniform": [0, 1]}, [0, 1]),
        ({"uniform": [0, 1], "points": 3}, [0, 0.5, 1]),
        ({"uniform": [0, 1], "step": 0.25}, [0, 0.25, 0.5, 0.75, 1]),
        ({"uniform": [0, 0.3], "step": 0.1}, [0, 0.1, 0.2, 0.3]),
        ({"uniform": [0, 0.1], "step": 0.03}, [0, 0.03, 0.06, 0.09]),
        ({"uniform": [0, 0.1], "step": 0.03, "points": 3}, [0, 0.06, 0.09]),
        ({"uniform": [2, 2]}, [2]),
        ({"loguniform": [1, 100], "points": 3}, [1, pytest.approx(10), 100]),
        ({"loguniform": [1, 100], "points": 1}, [pytest.approx(10)]),
    ],
)
def test_what_a_grid_tries_of_a_parameter(parameter: dict[str, Any], values: list[Any]) -> None:
    assert space(x=parameter)["x"].grid() == values
    assert all(space(x=parameter)["x"].contains(value) for value in space(x=parameter)["x"].grid())


def test_a_parameter_with_a_condition_is_there_only_when_it_holds() -> None:
    found = list(
        grid(
            space(
                momentum={"choice": [0, 0.9], "when": {"optimizer": ["sgd"]}},
                optimizer={"choice": ["adam", "sgd"]},
                nesterov={"choice": [True, False], "when": {"momentum": 0.9}},
            )
        )
    )
    assert found == [
        {"optimizer": "adam"},
        {"optimizer": "sgd", "momentum": 0},
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": True},
        {"optimizer": "sgd", "momentum": 0.9, "nesterov": False},
    ]


def test_conditions_are_checked() -> None:
    for when, words in (
        ({"z": 1}, "no parameter 'z'"),
        ({"y": 3}, "'y' is never 3"),
        ({"x": 1}, "round in a circle"),
        ({"y": []}, "never holds"),
        ({"y": 2, "w": 5}, "no value of 'y' suits"),
        ({"v": [[1], 2]}, "'v' is never 2$"),
        ({"v": [1]}, r"'v' is never 1; for the list itself write \[\[1\]\]"),
    ):
        with pytest.raises(ValueError, match=words):
            in_order(
                space(
                    x={"choice": [1, 2], "when": when},
                    y={"choice": [1, 2]},
                    w={"choice": [5], "when": {"y": 1}},
                    v={"choice": [[1]]},
                )
            )


def test_a_value_is_checked_where_all_conditions_above_it_hold() -> None:
    job = tune(
        space={
            "dropout": {"choice": [0.1], "when": {"fit.epochs": [1, 2], "fit.batch_size": 8}},
            "fit.batch_size": {"choice": [4, 8], "when": {"fit.epochs": [2, 3]}},
            "fit.epochs": {"int": [1, 3]},
        }
    )
    assert {"fit.epochs": 2, "fit.batch_size": 8, "dropout": 0.1} in list(job.examples())


def test_any_field_can_be_set_by_its_path() -> None:
    parameters = {
        "fit.optimizer": "sgd",
        "fit.optimizer.params.momentum": 0.9,
        "fit.batch_size": 7,
        "strategy": {"kind": "mirrored"},
        "fit.callbacks.0.params.patience": 9,
        "dropout": 0.2,
    }
    job = tune(
        base={"fit": {"callbacks": [{"name": "EarlyStopping", "params": {"monitor": "loss"}}]}},
        space={name: {"choice": [value]} for name, value in parameters.items()},
    )
    trained = job.assigned(parameters)
    assert (trained.fit.optimizer.name, trained.fit.optimizer.params) == ("sgd", {"momentum": 0.9})
    assert (trained.fit.batch_size, trained.strategy.kind) == (7, "mirrored")
    assert trained.fit.callbacks[0].params.patience == 9
    assert trained.model.params == {"units": [8], "dropout": 0.2}
    assert job.base.model.params == {"units": [8]}, "the base job stays as it is"


@pytest.mark.parametrize(
    ("changes", "place", "words"),
    [
        ({"space": {"units": {"choice": ["16", "x"]}}}, "space.units", 'With "x" the job is not valid: model.params'),
        ({"space": {"fit.lerning_rate": {"uniform": [0, 1]}}}, "space.fit.lerning_rate", "no such field"),
        ({"space": {"dropout": {"uniform": [0, 1]}}}, "space.dropout", "less than 1"),
        ({"space": {"fit.optimizer.params.momentum": {"uniform": [0, 1]}}},
         "space.fit.optimizer.params.momentum", "base.fit.optimizer is null"),
        ({"space": {"dropout": {"choice": [0.1]}, "fit.epochs": {"choice": [None, 1]}}}, "space.fit.epochs",
         "With dropout = 0.1, fit.epochs = null the job is not valid"),
        ({"space": {"dropout": {"choice": [0.1]}, "fit.epochs.x": {"choice": [1]}}},
         "space.fit.epochs.x", "no x to set"),
        ({"space": {"publish.model": {"choice": ["a"]}}}, "space.publish.model", "can't be tuned"),
        ({"space": {"units": {"choice": ["1"]}, "model.params.units": {"choice": ["2"]}}},
         "space.model.params.units", "'units' sets the same field"),
        ({"space": {"units": {"choice": ["1"], "when": {"z": 1}}}}, "space.units.when", "no parameter 'z'"),
        ({"space": {"units": {"int": [3, 1]}}}, "space.units.int", "above the last"),
        ({"space": {"dropout": {"uniform": [0, 0.9], "step": 1e-320}}}, "space.dropout.uniform", "too small"),
        ({"space": {"fit.learning_rate": {"uniform": [-1e308, 1e308]}}},
         "space.fit.learning_rate.uniform", "too far"),
        ({"space": {"units": {"choice": [1, True]}}}, "space.units.choice.choice", "true equals 1"),
        ({"space": {"units": {"choice": [None, None]}}}, "space.units.choice.choice", "null is named twice"),
        ({"space": {"units": {"int": [0, 2**54]}}}, "space.units.int", "2 to the 53rd"),
        ({"space": {"checkpoint": {"choice": [None]}}, "objective": {"metric": "val_loss", "at": "best"}},
         "space.checkpoint", "With null the job is not valid: checkpoint"),
        ({"space": {"fit.epochs": {"choice": [0], "when": {"units": "1", "dropout": 0.5}},
                    "dropout": {"choice": [0.5], "when": {"units": "2"}}, "units": {"choice": ["1", "2"]}}},
         "space.fit.epochs.when", "never holds"),
        ({"space": {"units": {"loguniform": [0, 1]}}}, "space.units.loguniform", "above 0"),
        ({"space": {"units": {"int": [0, 9], "log": True}}}, "space.units.int", "log needs"),
        ({"space": {"units": {"range": [0, 9]}}}, "space.units", "exactly one of"),
        ({"space": {}}, "space", "at least 1"),
        ({"sampler": "magic"}, "sampler", "name one of grid"),
        ({"pruner": {"name": "median", "x": 1}}, "pruner.median.x", "not permitted"),
        ({"pruner": {"name": "patient", "pruner": "none"}}, "pruner.patient.pruner", "one of median, asha, hyperband"),
        ({"base": {"publish": {"model": "m"}}}, "base.publish", "move 'publish' out of 'base'"),
        ({"enqueue": [{"foo": 1}]}, "enqueue.0.foo", "no such parameter"),
        ({"space": {"dropout": {"uniform": [0, 0.3], "step": 0.1}}, "enqueue": [{"dropout": 0.3}, {"dropout": 0.25}]},
         "enqueue.1.dropout", "not in its space"),
        ({"enqueue": [{"units": "99"}]}, "enqueue.0.units", "not in its space"),
        ({"sampler": "grid", "enqueue": [{}]}, "enqueue.0", "draws nothing"),
        ({"objective": ["val_loss", "val_accuracy"], "pruner": "median"}, "pruner", "several objectives"),
        ({"objective": ["val_loss", "val_accuracy"], "publish": {"model": "m"}}, "publish", "no best trial"),
        ({"objective": "test_accuracy", "pruner": "asha"}, "pruner", "too late to prune"),
        ({"sampler": "grid", "space": {"fit.seed": {"int": [0, 99_999]}}}, "sampler", "more than 10000"),
        ({"max_trials": 0}, "max_trials", "greater than or equal to 1"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_by_its_place(changes: dict[str, Any], place: str, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        tune(**changes)
    first = caught.value.errors()[0]
    assert ".".join(str(part) for part in first["loc"] if part != "tune") == place
    assert words in first["msg"]


def test_a_large_space_is_checked_in_part(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.specs.tune.CHECKED_IN_ALL", 9)
    space = {name: {"choice": [8, 16, 32, "x"]} for name in ("units", "fit.epochs", "fit.batch_size")}
    assert len(list(tune(space=space).examples())) == 9
    with pytest.raises(ValidationError, match='With "x" the job is not valid'):
        tune(space={name: space[name] for name in ("units", "fit.epochs")})


def test_a_trial_writes_little_unless_asked() -> None:
    assert tune().base.tensorboard.histogram_freq == 0
    assert tune(base={"tensorboard": {}}).base.tensorboard.histogram_freq == 1


def test_the_best_epoch_is_kept_when_the_objective_asks_for_it() -> None:
    job = tune(objective={"metric": "val_accuracy", "at": "best"})
    best = job.assigned({"units": "16"}).checkpoint.best
    assert best is not None
    assert (best.monitor, best.mode) == ("val_accuracy", "max")


def test_directions_follow_the_metrics_names() -> None:
    assert tune(objective=["val_loss", {"metric": "val_auc"}]).directions == ["minimize", "maximize"]
    assert tune(objective={"metric": "val_loss", "mode": "max"}).directions == ["maximize"]
