"""What the API says of studies, on studies that are made by hand."""

from __future__ import annotations

from typing import Any

import pytest

from services.api.studies import pareto_front
from shared.jobs import JobState
from shared.specs import parse_job
from shared.store import Store
from shared.study_views import HistoryView, ImportanceView, ParallelView, StudyView, TrialList
from shared.trials import Told, TrialStatus
from tests.studies import BASE, HandMade, complete, hand_made


def params(number: int) -> dict[str, Any]:
    return {
        "fit.learning_rate": 10 ** (-4 + 3 * ((number * 7) % 20) / 20),
        "units": ["64", "128,64"][number % 2],
        "dropout": ((number * 3) % 10) / 20,
    }


@pytest.fixture
def study(store: Store) -> HandMade:
    """Five complete trials, one pruned, one failed, two waiting."""
    made = hand_made(store)
    made.ask(*(params(number) for number in range(9)))
    values = (0.5, 0.9, 0.7, 0.9, 0.6)
    made.tell([complete(number, value) for number, value in enumerate(values)], best=1)
    made.tell(
        [
            Told(5, TrialStatus.PRUNED, None, [(1, 0.25)]),
            Told(6, TrialStatus.FAILED, None, []),
        ],
        best=1,
    )
    return made


def get(client: Any, study: HandMade, path: str, view: Any, **query: Any) -> Any:
    answer = client.get(f"/jobs/{study.id}/{path}", params=query)
    assert answer.status_code == 200, answer.text
    return view.model_validate_json(answer.content)


def numbers(client: Any, study: HandMade, **query: Any) -> list[int]:
    """All trials, page by page."""
    found: list[int] = []
    while True:
        page = get(client, study, "trials", TrialList, **query)
        found += [item.number for item in page.items]
        if not page.has_more:
            return found
        query["after"] = found[-1]


def test_how_a_study_stands(client: Any, study: HandMade) -> None:
    view = get(client, study, "study", StudyView)
    assert view.counts == {
        "waiting": 2,
        "running": 0,
        "complete": 5,
        "pruned": 1,
        "failed": 1,
        "cancelled": 0,
    }
    assert (view.state, view.trials, view.sampler, view.pruner) == (JobState.RUNNING, 50, "tpe", "none")
    assert [(item.metric, item.mode) for item in view.objectives] == [("val_accuracy", "max")]
    (best,) = view.best
    assert (best.number, best.values, best.params) == (1, {"val_accuracy": 0.9}, params(1))
    job = client.get(f"/jobs/{study.id}").json()
    for name in ("study", "trials", "importance", "history", "parallel"):
        assert client.get(job["links"][name]).status_code == 200, name


@pytest.mark.parametrize("limit", [1, 3, 200])
def test_trials_in_every_order_by_pages(client: Any, study: HandMade, limit: int) -> None:
    assert numbers(client, study, limit=limit) == list(range(9))
    assert numbers(client, study, limit=limit, descending=True) == list(range(9))[::-1]
    # the best first; those without a value last
    assert numbers(client, study, limit=limit, sort="value") == [1, 3, 2, 4, 0, 5, 6, 7, 8]
    assert numbers(client, study, limit=limit, sort="value", descending=False) == [0, 4, 2, 1, 3, 5, 6, 7, 8]
    assert numbers(client, study, limit=limit, sort="status") == [0, 1, 2, 3, 4, 6, 5, 7, 8]
    assert sorted(numbers(client, study, limit=limit, sort="duration")) == list(range(9))
    assert numbers(client, study, limit=limit, status="waiting") == [7, 8]
    assert numbers(client, study, limit=limit, status="complete", sort="value") == [1, 3, 2, 4, 0]
    assert numbers(client, study, limit=limit, status="pruned", sort="value") == [5]
    assert numbers(client, study, limit=limit, status="running") == []


def test_a_trial_has_its_intermediate_values(client: Any, study: HandMade) -> None:
    items = get(client, study, "trials", TrialList).items
    assert items[1].intermediate == [(1, 0.5), (2, 0.9)]
    assert items[5].intermediate == [(1, 0.25)]
    assert (items[5].values, items[5].status) == ({}, "pruned")
    assert items[7].links == {
        "job": f"/jobs/{items[7].job_id}",
        "tensorboard": f"/tensorboard/jobs/{items[7].job_id}/",
    }


def test_history_keeps_each_new_best(client: Any, study: HandMade) -> None:
    view = get(client, study, "history", HistoryView)
    assert [(point.number, point.value, point.best) for point in view.points] == [
        (0, 0.5, 0.5), (1, 0.9, 0.9), (2, 0.7, 0.9), (3, 0.9, 0.9), (4, 0.6, 0.9), (5, 0.25, 0.9), (6, None, 0.9),
    ]  # fmt: skip
    thin = get(client, study, "history", HistoryView, max_points=3)
    assert [point.number for point in thin.points] == [0, 1, 6]
    assert thin.total == 7
    assert [point.number for point in get(client, study, "history", HistoryView, max_points=1).points] == [6]


def test_parallel_coordinates(client: Any, study: HandMade) -> None:
    view = get(client, study, "parallel", ParallelView)
    assert [(axis.name, axis.kind, axis.log, axis.range, axis.categories) for axis in view.axes] == [
        ("fit.learning_rate", "number", True, (1e-4, 1e-1), None),
        ("units", "category", False, None, ["64", "128,64"]),
        ("dropout", "number", False, (0.0, 0.5), None),
        ("val_accuracy", "number", False, (0.5, 0.9), None),
    ]
    assert view.lines[1].values == [*params(1).values(), 0.9]
    assert view.lines[5].values[-1] is None
    assert [line.number for line in get(client, study, "parallel", ParallelView, max_lines=2).lines] == [5, 6]
    assert view.total == 7


def test_importance_names_what_made_the_difference(client: Any, store: Store) -> None:
    made = hand_made(store)
    made.ask(*(params(number) for number in range(40)))
    made.tell([complete(number, params(number)["dropout"]) for number in range(40)], best=3)
    view = get(client, made, "importance", ImportanceView)
    assert next(iter(view.importances)) == "dropout"
    assert sum(view.importances.values()) == pytest.approx(1)
    assert set(view.importances) == {"fit.learning_rate", "units", "dropout"}
    assert (view.trials, view.left_out) == (40, [])


def test_importance_leaves_out_what_does_not_apply_to_all(client: Any, store: Store) -> None:
    space = {
        "fit.optimizer": {"choice": ["adam", "sgd"]},
        "fit.optimizer.params.momentum": {"uniform": [0.0, 0.9], "when": {"fit.optimizer": "sgd"}},
        "fit.batch_size": {"int": [16, 64], "step": 16},
        "fit.class_weight": {"choice": [None, "balanced"]},
    }
    made = hand_made(store, space=space)
    rows = [
        {
            "fit.optimizer": "sgd" if number % 2 else "adam",
            **({"fit.optimizer.params.momentum": 0.5} if number % 2 else {}),
            "fit.batch_size": 16 + 16 * (number % 4),
            "fit.class_weight": None,
        }
        for number in range(12)
    ]
    made.ask(*rows)
    made.tell([complete(number, float(number % 2)) for number in range(12)], best=1)
    view = get(client, made, "importance", ImportanceView)
    assert view.left_out == ["fit.optimizer.params.momentum"]
    assert view.importances["fit.class_weight"] == 0
    assert view.importances["fit.optimizer"] > view.importances["fit.batch_size"]


def refused(client: Any, path: str, expected: int, code: str, **query: Any) -> dict[str, Any]:
    answer = client.get(path, params=query)
    assert (answer.status_code, answer.json()["code"]) == (expected, code), answer.text
    said: dict[str, Any] = answer.json()
    return said


def test_too_few_trials_say_nothing_of_importance(client: Any, store: Store) -> None:
    made = hand_made(store)
    path = f"/jobs/{made.id}/importance"
    refused(client, path, 409, "too_few_trials")
    made.ask(*(params(number) for number in range(6)))
    made.tell([complete(number, 0.5) for number in range(6)], best=0)
    refused(client, path, 409, "no_differences")


@pytest.mark.parametrize("path", ["study", "trials", "importance", "history", "parallel"])
def test_other_jobs_are_no_studies(client: Any, store: Store, study: HandMade, path: str) -> None:
    job, _ = store.jobs.create(parse_job(BASE))
    refused(client, f"/jobs/{job.id}/{path}", 409, "not_a_study")
    refused(client, f"/jobs/job_none/{path}", 404, "job_not_found")
    trial = client.get(f"/jobs/{study.id}/trials").json()["items"][0]["job_id"]
    assert study.id in refused(client, f"/jobs/{trial}/{path}", 409, "not_a_study")["hint"]


def test_questions_that_make_no_sense(client: Any, study: HandMade) -> None:
    trials = f"/jobs/{study.id}/trials"
    refused(client, trials, 404, "trial_not_found", after=99)
    for query in (
        {"after": -1},
        {"sort": "colour"},
        {"status": "odd"},
        {"limit": 0},
        {"descending": "perhaps"},
    ):
        refused(client, trials, 422, "invalid_input", **query)
    said = refused(client, f"/jobs/{study.id}/history", 422, "invalid_input", objective="loss")
    assert "val_accuracy" in said["detail"]
    refused(client, f"/jobs/{study.id}/importance", 422, "invalid_input", objective="loss")


def test_several_objectives_have_a_front(client: Any, store: Store) -> None:
    made = hand_made(store, objective=[{"metric": "val_accuracy"}, {"metric": "val_loss"}])
    made.ask(*(params(number) for number in range(5)))
    made.tell([complete(0, 0.5, 0.1), complete(1, 0.9, 0.4), complete(2, 0.6, 0.5)])
    assert [item.number for item in get(client, made, "study", StudyView).best] == [1, 0]
    made.tell([complete(3, 0.9, 0.3), complete(4, 0.4, 0.05)])  # 3 is better than 1
    view = get(client, made, "study", StudyView)
    assert [item.number for item in view.best] == [3, 0, 4]
    assert view.best[0].values == {"val_accuracy": 0.9, "val_loss": 0.3}
    loss = get(client, made, "history", HistoryView, objective="val_loss")
    assert [point.best for point in loss.points] == [0.1, 0.1, 0.1, 0.1, 0.05]
    assert loss.mode == "min"


def test_a_front_is_all_that_nothing_beats() -> None:
    trials = {0: [1.0, 1.0], 1: [1.0, 1.0], 2: [0.0, 2.0], 3: [2.0, 2.0], 4: [2.0, 0.5]}
    assert set(pareto_front(trials, ["minimize", "minimize"])) == {0, 1, 2, 4}
    assert set(pareto_front(trials, ["maximize", "maximize"])) == {3}
    assert pareto_front({}, ["minimize", "maximize"]) == {}
