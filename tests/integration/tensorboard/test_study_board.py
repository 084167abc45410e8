"""A study's files, read back through TensorBoard's HTTP API while trials begin and end."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from services.worker import study_board
from services.worker.study_board import Metric, Parameter
from tests.integration.tensorboard.conftest import Board, board_on
from tests.studies import HPARAMS_TABLE

STUDY = "digits/20260101-000000-job_s"
PARAMETERS = (
    Parameter("fit.learning_rate", interval=(1e-4, 0.1)),
    Parameter("fit.batch_size", choices=(32, 64)),
    Parameter("model.params.units", choices=("128,64", "256,128")),
    Parameter("model.params.dropout", choices=(None, 0.5)),
    Parameter("fit.deterministic", choices=(False, True)),
)
VALUES = {
    "fit.learning_rate": 0.01,
    "fit.batch_size": 32,
    "model.params.units": "128,64",
    "model.params.dropout": None,
    "fit.deterministic": True,
}


def groups(board: Board, address: str = "/jobs/job_s", **more: Any) -> dict[str, dict[str, Any]]:
    """Rows of the table by name."""
    answer = board.post(f"{address}/data/plugin/hparams/session_groups", HPARAMS_TABLE | more)
    assert answer["totalSize"] == len(answer["sessionGroups"])
    return {group["name"]: group for group in answer["sessionGroups"]}


def soon(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def status(group: dict[str, Any]) -> str:
    (session,) = group["sessions"]
    return str(session["status"])


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    root = tmp_path_factory.mktemp("runs")
    study_board.write_experiment(
        root / STUDY,
        name="units/dropout, \u03b7",
        about="",
        parameters=PARAMETERS,
        metrics=[Metric.of("val_accuracy"), Metric.of("loss"), Metric.objective("val_accuracy")],
        created_at=time.time(),
    )
    with board_on(root) as board:
        yield board


def begin(board: Board, number: int, **values: Any) -> Path:
    folder = board.runs / STUDY / f"trial-{number:05d}-job_t{number}"
    study_board.trial_begun(
        folder, name=f"trial {number}", parameters=PARAMETERS, values={**VALUES, **values}, at=time.time()
    )
    return folder


def test_domains_and_metrics(board: Board) -> None:
    answer = board.post("/jobs/job_s/data/plugin/hparams/experiment", {"experimentName": ""})
    shown = {
        info["name"]: (info["type"], info.get("domainInterval") or info["domainDiscrete"])
        for info in answer["hparamInfos"]
    }
    assert shown == {
        "fit.learning_rate": ("DATA_TYPE_FLOAT64", {"minValue": 1e-4, "maxValue": 0.1}),
        "fit.batch_size": ("DATA_TYPE_FLOAT64", [32.0, 64.0]),
        "model.params.units": ("DATA_TYPE_STRING", ["128,64", "256,128"]),
        "model.params.dropout": ("DATA_TYPE_STRING", ["null", "0.5"]),
        "fit.deterministic": ("DATA_TYPE_BOOL", [False, True]),
    }
    assert [
        (info["name"]["group"], info["name"]["tag"], info["displayName"]) for info in answer["metricInfos"]
    ] == [
        ("validation", "epoch_accuracy", "val_accuracy"),
        ("train", "epoch_loss", "loss"),
        ("", "objective/val_accuracy", "objective: val_accuracy"),
    ]


def test_trials_show_as_they_run_and_as_they_end(board: Board) -> None:
    well, badly, running = (begin(board, number) for number in range(3))
    soon(lambda: len(groups(board)) == 3)
    assert {status(group) for group in groups(board).values()} == {"STATUS_RUNNING"}
    assert groups(board)["trial 0"]["hparams"] == {
        "fit.learning_rate": 0.01,
        "fit.batch_size": 32.0,
        "model.params.units": "128,64",
        "model.params.dropout": "null",
        "fit.deterministic": True,
    }
    study_board.trial_ended(well, success=True, at=time.time(), judged={"val_accuracy": 0.9})
    study_board.trial_ended(badly, success=False, at=time.time(), judged={"val_accuracy": float("nan")})
    soon(lambda: status(groups(board)["trial 1"]) == "STATUS_FAILURE")
    rows = groups(board)
    assert status(rows["trial 0"]) == "STATUS_SUCCESS"
    (value,) = rows["trial 0"]["metricValues"]
    assert (value["name"]["tag"], value["value"]) == ("objective/val_accuracy", 0.9)
    assert rows["trial 1"]["metricValues"] == []
    assert status(rows["trial 2"]) == "STATUS_RUNNING"
    # a trial that another worker takes up, and a step that is done twice
    begin(board, 2)
    study_board.trial_ended(well, success=False, at=time.time(), judged={"val_accuracy": 0.1})
    time.sleep(1.5)
    assert groups(board) == rows
    assert not list(running.glob(".*"))


def test_the_table_sorts_and_filters_by_status_and_value(board: Board) -> None:
    begin(board, 7, **{"fit.learning_rate": 0.002})
    soon(lambda: "trial 7" in groups(board))
    rate = {"hparam": "fit.learning_rate", "order": "ORDER_ASC"}
    assert next(iter(groups(board, colParams=[rate]))) == "trial 7"
    low = {"hparam": "fit.learning_rate", "filterInterval": {"minValue": 0.0, "maxValue": 0.005}}
    assert set(groups(board, colParams=[low])) == {"trial 7"}
    assert {status(group) for group in groups(board, allowedStatuses=["STATUS_SUCCESS"]).values()} <= {
        "STATUS_SUCCESS"
    }


def test_what_does_not_apply_to_a_trial_is_left_out(board: Board) -> None:
    folder = board.runs / STUDY / "trial-00009-job_t9"
    study_board.trial_begun(
        folder, name="trial 9", parameters=PARAMETERS, values={"fit.batch_size": 64}, at=time.time()
    )
    soon(lambda: "trial 9" in groups(board))
    assert groups(board)["trial 9"]["hparams"] == {"fit.batch_size": 64.0}


def test_a_trial_alone_and_the_newest_jobs(board: Board) -> None:
    begin(board, 11)
    soon(lambda: bool(groups(board, "/jobs/job_t11")))
    assert set(groups(board, "/jobs/job_t11")) == {"trial 11"}
    # among other jobs a study's description would hide their settings
    assert groups(board, "") == {}
