"""A real job's run, read back through TensorBoard's HTTP API: every kind of page, for chosen jobs."""

from __future__ import annotations

import io
import json
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from PIL import Image

from tests.integration.tensorboard.conftest import Board, board_on
from tests.training.conftest import DIGITS_JOB, Supervisor, changed, digits, preloader

__all__ = ["digits", "preloader"]  # fixtures

STEPS = 24  # 1,500 rows in batches of 64
SPEC = changed(
    DIGITS_JOB,
    model={"builder": "lenet5", "params": {}},
    fit={"epochs": 2, "learning_rate": 0.01},
) | {"tensorboard": {"update_freq": "batch", "profile": [10, 14]}}
JOB = "digits/20260101-000001-job_b"


@pytest.fixture(scope="module")
def board(preloader: Any, digits: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Board]:
    home = tmp_path_factory.mktemp("home")
    runs = home / "runs"
    supervisor = Supervisor(preloader, home)
    try:
        supervisor.run(SPEC, data=digits, run=f"runs/{JOB}")
    finally:
        for job in supervisor.jobs:
            job.trainer.close()
    shutil.copytree(runs / JOB, runs / "digits/20260101-000002-job_c")
    shutil.copytree(runs / JOB, runs / "other/20260101-000003-job_d")
    with board_on(runs) as board:
        yield board


def chosen(board: Board, path: str, jobs: str = "job_b") -> Any:
    answer = board.get(f"/jobs/{jobs}{path}")
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_one_job_or_several_are_shown_alone(board: Board) -> None:
    assert set(chosen(board, "/data/runs")) == {JOB, f"{JOB}/train", f"{JOB}/validation", f"{JOB}/test"}
    several = chosen(board, "/data/runs", "job_b,job_d")
    assert len(several) == 8
    assert {name.split("/")[0] for name in several} == {"digits", "other"}
    assert len(board.get("/data/runs").json()) == 12
    # how the time series page asks
    named = chosen(board, "/experiment/defaultExperimentId/data/runs")
    assert set(named) == set(chosen(board, "/data/runs"))
    assert board.get("/jobs/job_b").headers["location"] == "job_b/"
    assert board.get("/jobs/job_b/").status_code == 200
    assert chosen(board, "/data/runs", "job_none") == []
    assert board.get("/jobs/job%20b/data/runs").status_code == 404


def test_scalars_by_epoch_and_by_batch(board: Board) -> None:
    def points(run: str, tag: str) -> list[int]:
        found = chosen(board, f"/data/plugin/scalars/scalars?run={JOB}/{run}&tag={tag}")
        assert all(np.isfinite(value) for _, _, value in found)
        return [step for _, step, _ in found]

    assert points("train", "batch_loss") == list(range(1, 2 * STEPS + 1))
    for tag in ("epoch_loss", "epoch_accuracy", "epoch_learning_rate"):
        assert points("train", tag) == [0, 1]
    assert points("validation", "epoch_loss") == [0, 1]
    assert points("validation", "evaluation_accuracy_vs_iterations") == [STEPS, 2 * STEPS]
    assert points("test", "epoch_accuracy") == [1]


def test_histograms(board: Board) -> None:
    tags = chosen(board, "/data/plugin/histograms/tags")[f"{JOB}/train"]
    assert {"c1/kernel/histogram", "f6/bias/histogram"} <= set(tags)
    found = chosen(board, f"/data/plugin/histograms/histograms?run={JOB}/train&tag=c3/kernel/histogram")
    assert [step for _, step, _ in found] == [0, 1]
    assert sum(count for _, _, count in found[-1][2]) == 5 * 5 * 6 * 16


def image(board: Board, run: str, tag: str, sample: int = 0) -> Image.Image:
    found = chosen(board, f"/data/plugin/images/images?run={JOB}/{run}&tag={tag}&sample={sample}")
    answer = board.get(f"/jobs/job_b/data/plugin/images/individualImage?{found[-1]['query']}")
    return Image.open(io.BytesIO(answer.content))


def test_images_of_weights_and_rows_and_the_confusion_matrix(board: Board) -> None:
    assert image(board, "train", "c3/kernel/image").size == (16 * 6 - 1, 6 * 6 - 1)
    assert image(board, "train", "training_images", sample=9).size == (8, 8)
    matrix = image(board, "test", "confusion_matrix")
    assert matrix.size[0] > 10 * 40
    assert len(matrix.getcolors(100_000) or ()) > 20
    text = chosen(board, f"/data/plugin/text/text?run={JOB}/test&tag=confusion_matrix_counts")[0]["text"]
    cells = [int(cell) for cell in re.findall(r"<td[^>]*>(\d+)</td>", text)]
    assert sum(cells) == 297 + sum(range(10)), "the test rows, and the names of the classes"


def test_both_graphs(board: Board) -> None:
    graph = board.get(f"/jobs/job_b/data/plugin/graphs/graph?run={JOB}/train").text
    assert "Conv2D" in graph
    layers = board.get(f"/jobs/job_b/data/plugin/graphs/graph?run={JOB}/train&tag=keras&conceptual=true").text
    assert "c3" in layers


def test_the_job_as_text(board: Board) -> None:
    text = chosen(board, f"/data/plugin/text/text?run={JOB}/train&tag=job")[0]["text"]
    assert "lenet5" in text


def test_settings_of_each_job_are_compared(board: Board) -> None:
    body = {
        "experimentName": "",
        "allowedStatuses": ["STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING"],
        "colParams": [],
        "startIndex": 0,
        "sliceSize": 10,
    }
    answer = board.post("/jobs/job_b/data/plugin/hparams/session_groups", body)
    (group,) = answer["sessionGroups"]
    assert group["hparams"]["fit.learning_rate"] == 0.01
    assert group["hparams"]["model.builder"] == "lenet5"
    assert group["sessions"][0]["status"] == "STATUS_SUCCESS"
    named = {(value["name"]["group"], value["name"]["tag"]) for value in group["metricValues"]}
    assert {("validation", "epoch_accuracy"), ("test", "epoch_accuracy")} <= named


def test_the_profile_page_is_loaded_when_it_is_opened(board: Board) -> None:
    process = psutil.Process(board.process.pid)
    assert chosen(board, "/data/plugins_listing")["profile"]["enabled"]
    assert "_pywrap_profiler" not in str([item.path for item in process.memory_maps()])
    (profile,) = chosen(board, "/data/plugin/profile/runs")
    assert profile.startswith(f"{JOB}/train/")
    assert len(chosen(board, "/data/plugin/profile/runs", "job_b,job_c")) == 2
    tools = chosen(board, f"/data/plugin/profile/run_tools?run={profile}")
    assert {"overview_page", "trace_viewer@"} <= set(tools)
    (host,) = chosen(board, f"/data/plugin/profile/hosts?run={profile}&tag=overview_page")
    where = f"run={profile}&host={host['hostname']}"
    assert chosen(board, f"/data/plugin/profile/data?tag=overview_page&{where}")
    events = chosen(board, f"/data/plugin/profile/data?tag=trace_viewer@&{where}")["traceEvents"]
    assert any("train" in event.get("name", "") for event in events)
    assert board.get("/jobs/job_b/data/plugin/profile/index.html").status_code == 200
    for refused in (
        "capture_profile?service_addr=x",
        f"run_tools?run=../{profile}",
        "runs?session_path=/etc",
    ):
        assert board.get(f"/jobs/job_b/data/plugin/profile/{refused}").status_code == 403
    assert not [item for item in process.memory_maps() if "libtensorflow" in item.path]


def test_a_thousand_runs_cost_nothing_until_they_are_looked_at(board: Board, tmp_path: Path) -> None:
    for number in range(1000):
        target = tmp_path / "many" / f"20260201-{number:06d}-job_{number}"
        for file in (board.runs / JOB).rglob("*.tfevents.*"):
            place = target / file.relative_to(board.runs / JOB)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(file)
    with board_on(tmp_path) as many:
        began = time.monotonic()
        newest = many.get("/data/runs").json()
        assert time.monotonic() - began < 30  # 0.4 s on a quiet machine
        assert len(newest) == 10 * 4
        assert {name.split("/")[1].split("_")[1] for name in newest} == {str(n) for n in range(990, 1000)}
        assert len(many.get("/jobs/job_17/data/runs").json()) == 4
        assert psutil.Process(many.process.pid).memory_info().rss < 150e6
        print(json.dumps({"start_seconds": many.seconds, "runs_seconds": time.monotonic() - began}))


def test_a_job_that_was_taken_back_to_its_checkpoint_has_no_points_of_its_lost_future(
    board: Board, tmp_path: Path
) -> None:
    shutil.copytree(board.runs / JOB, tmp_path / JOB)
    (file,) = (tmp_path / JOB / "validation").glob("*.tfevents.*")
    with board_on(tmp_path) as other:

        def steps() -> list[int]:
            found = chosen(other, f"/data/plugin/scalars/scalars?run={JOB}/validation&tag=epoch_loss")
            return [step for _, step, _ in found]

        assert steps() == [0, 1]
        data = file.read_bytes()
        # records: 8 bytes of length, 4 of its sum, data, 4 of its sum
        position, records = 0, []
        while position < len(data):
            records.append(position)
            position += 16 + int.from_bytes(data[position : position + 8], "little")
        with file.open("r+b") as opened:
            opened.truncate(records[1 + (len(records) - 1) // 2])
        deadline = time.monotonic() + 20
        while steps() != [0]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
