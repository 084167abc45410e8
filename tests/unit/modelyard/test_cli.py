"""The command line without a server: words, flags, exit codes, and what the documentation says of them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

import modelyard.errors as client_errors
from modelyard.cli import app as app_module
from modelyard.cli import follow, output, train
from modelyard.client import Client
from modelyard.demo.images import Samples, draw
from modelyard.demo.timings import Timings
from modelyard.exits import Exit
from modelyard.launcher.errors import LaunchError
from modelyard.predictions import top
from shared.errors import InvalidInput
from shared.specs import parse_job
from tests.unit.modelyard.answers import JOB, NOW, job_body, problem

ROOT = Path(__file__).parents[3]


def run(*words: str, stdin: str = "", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modelyard", *words],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={"PATH": "/usr/bin:/bin", "HOME": "/nonexistent", **(env or {})},
    )


class Terminal:
    """The command line in this process, over a transport that answers as told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.answers: list[httpx.Response] = []
        self.requests: list[httpx.Request] = []
        self._capsys = capsys
        transport = httpx.MockTransport(self._answer)
        for module in ("models", "data", "jobs", "runs", "train"):
            monkeypatch.setattr(
                f"modelyard.cli.{module}.connect",
                lambda url: Client(url or "http://test", transport=transport),
            )
        self._monkeypatch = monkeypatch

    def _answer(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.answers[min(len(self.requests), len(self.answers)) - 1]

    def __call__(self, *words: str) -> tuple[int, str, str]:
        self._monkeypatch.setattr(sys, "argv", ["modelyard", *words])
        with pytest.raises(SystemExit) as ended:
            app_module.main()
        out, err = self._capsys.readouterr()
        return int(ended.value.code or 0), out, err


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    monkeypatch.setattr(output, "errors", Console(stderr=True, highlight=False, soft_wrap=True))
    monkeypatch.setattr(app_module, "errors", output.errors)
    return Terminal(monkeypatch, capsys)


def test_nothing_answering_has_its_own_exit_code_and_says_what_to_do() -> None:
    done = run("jobs", "--url", "http://127.0.0.1:9")
    assert done.returncode == Exit.UNREACHABLE
    assert "127.0.0.1:9" in done.stderr
    assert "modelyard up" in done.stderr
    assert not done.stdout


def test_the_address_comes_from_the_environment() -> None:
    assert "127.0.0.1:10" in run("jobs", env={"MODELYARD_URL": "http://127.0.0.1:10"}).stderr


def test_wrong_usage_is_2(terminal: Terminal) -> None:
    assert run("train", "-", stdin="{").returncode == Exit.USAGE
    for words in (("jobs", "--no-such-option"), ("train",), ("predict", "m")):
        assert terminal(*words)[0] == Exit.USAGE
    assert not terminal.requests


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (client_errors.error_for(404, b"x"), Exit.NOT_FOUND),
        (client_errors.error_for(409, b"x"), Exit.CONFLICT),
        (client_errors.error_for(422, b"x"), Exit.INVALID),
        (client_errors.error_for(503, b"x"), Exit.UNAVAILABLE),
        (client_errors.error_for(500, b"x"), Exit.INTERNAL),
        (client_errors.Unreachable("x"), Exit.UNREACHABLE),
        (InvalidInput("x"), Exit.USAGE),
        (LaunchError("x", exit_code=Exit.PORT_IN_USE), Exit.PORT_IN_USE),
    ],
)
def test_each_kind_of_error_has_its_exit_code(error: Any, code: Exit) -> None:
    assert app_module.exit_code(error) is code


def test_the_documentation_lists_every_exit_code() -> None:
    table = re.findall(r"^\| (\d+) \| (.+?) \|$", (ROOT / "docs" / "cli.md").read_text(), re.MULTILINE)
    assert table == [(str(int(code)), code.meaning) for code in Exit]


def test_the_documentation_names_every_command() -> None:
    text = (ROOT / "docs" / "cli.md").read_text()
    commands = [
        info.name or info.callback.__name__ for info in app_module.app.registered_commands if info.callback
    ]
    assert len(commands) >= 14
    for command in commands:
        assert re.search(rf"^\| `{command}\b", text, re.MULTILINE), command


def test_flags_make_a_spec_that_the_server_takes() -> None:
    flags = {
        "model": {"builder": "mlp", "params": train._params(["units=128,64", "dropout=0.1"])},
        "dataset": {"csv": "ds_1", "label": "y", "tfds": None},
        "fit": {"epochs": 3, "batch_size": None, "optimizer": "sgd", "learning_rate": 0.1},
        "publish": {"model": "m"},
        "name": None,
    }
    spec = parse_job(train.overlay({"kind": "train"}, flags))
    assert spec.fit.epochs == 3
    assert spec.model.typed_params().units == [128, 64]  # type: ignore[union-attr]
    assert spec.publish is not None


def test_flags_change_a_file_and_another_kind_of_data_replaces_the_first() -> None:
    spec = {
        "model": {"builder": "mlp"},
        "dataset": {"npz": "ds_1", "cache": False},
        "fit": {"epochs": 9, "seed": 1},
    }
    changed = train.overlay(spec, {"dataset": {"tfds": "mnist", "csv": None}, "fit": {"epochs": 2}})
    assert changed["dataset"] == {"tfds": "mnist", "cache": False}
    assert changed["fit"] == {"epochs": 2, "seed": 1}
    assert spec["fit"] == {"epochs": 9, "seed": 1}


def test_submitting_prints_the_id_alone_on_stdout(terminal: Terminal) -> None:
    terminal.answers = [httpx.Response(202, json=job_body())]
    code, out, err = terminal("train", "--builder", "lenet5", "--tfds", "mnist", "--epochs", "2")
    assert (code, out) == (Exit.OK, f"{JOB}\n")
    assert "logs -f" in err
    assert json.loads(terminal.requests[0].content)["fit"] == {"epochs": 2}


def test_what_the_server_refuses_is_shown_with_field_and_hint(terminal: Terminal) -> None:
    errors = [{"field": "fit.epochs", "message": "too few"}]
    terminal.answers = [
        problem(422, "invalid_input", field="fit.epochs", hint="Use 1 or more.", errors=errors)
    ]
    code, out, err = terminal("train", "--builder", "lenet5", "--tfds", "mnist")
    assert code == Exit.INVALID
    assert not out
    for said in ("fit.epochs", "It is so.", "Use 1 or more.", "too few"):
        assert said in err


def test_lists_are_tables_with_whole_ids_or_json(terminal: Terminal) -> None:
    body = {"items": [job_body(state="running", stage="training")], "has_more": True}
    terminal.answers = [httpx.Response(200, json=body)]
    code, out, err = terminal("jobs", "--state", "running")
    assert code == Exit.OK
    assert JOB in out
    assert f"--after {JOB}" in err
    code, out, _ = terminal("jobs", "--json")
    assert json.loads(out)["items"][0]["id"] == JOB
    assert next(dict(request.url.params) for request in terminal.requests)["state"] == "running"


def test_a_failed_job_is_shown_with_its_error(terminal: Terminal) -> None:
    error = {"code": "out_of_memory", "message": "No room.", "hint": "Smaller batches.", "detail": "log tail"}
    terminal.answers = [httpx.Response(200, json=job_body(state="failed", error=error, started_at=NOW))]
    code, out, _ = terminal("job", JOB)
    assert code == Exit.OK
    for said in ("out_of_memory", "No room.", "Smaller batches.", "log tail"):
        assert said in out


def test_following_a_job_that_fails_exits_so(terminal: Terminal) -> None:
    body = job_body(state="failed", error={"code": "c", "message": "broken"})
    stream = f"event: end\ndata: {json.dumps(body)}\n\n"
    terminal.answers = [
        httpx.Response(202, json=job_body()),
        httpx.Response(200, text=stream),
        httpx.Response(200, json=body),
    ]
    code, _, err = terminal("train", "--builder", "lenet5", "--tfds", "mnist", "--follow")
    assert code == Exit.JOB_FAILED
    assert "broken" in err


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_followed_job_shows_stages_epochs_and_progress(is_terminal: bool) -> None:
    def said(kind: str, seq: int, data: dict[str, Any]) -> str:
        return f"id: {seq}\nevent: {kind}\ndata: {json.dumps({'seq': seq, 'at': NOW, 'type': kind, 'data': data})}\n\n"

    progress = {"epoch": 1, "epochs": 2, "step": 30, "steps": 60, "fraction": 0.25, "eta_seconds": 7.0,
                "steps_per_second": 9.0, "metrics": {"loss": 0.51234, "accuracy": 0.8}}  # fmt: skip
    text = (
        said("state", 1, {"to": "running"})
        + said("stage", 2, {"stage": "training"})
        + f"event: progress\ndata: {json.dumps(progress)}\n\n"
        + said("epoch", 3, {"epoch": 1, "metrics": {"loss": 0.4}, "seconds": 1.25})
        + said("warning", 4, {"code": "w", "message": "mind this"})
        + f"event: end\ndata: {json.dumps(job_body(state='succeeded'))}\n\n"
    )
    transport = httpx.MockTransport(
        lambda request: (
            httpx.Response(200, text=text)
            if request.url.path.endswith("events")
            else httpx.Response(200, json=job_body())
        )
    )
    console = Console(force_terminal=is_terminal, width=160, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    follower = follow.Follower(console)
    with Client("http://test", transport=transport) as client:
        assert follower.run(client.jobs.get(JOB)).state == "succeeded"
    console.file.close()
    shown = console.export_text()
    assert "epoch 1: loss 0.4  (1.2 s)" in shown
    assert "warning: mind this" in shown
    assert list(follower.stages) == ["running", "training", "end"]
    timings = Timings()
    timings.add_job(follower.started, follower.stages)
    assert [name for name, _ in timings.steps] == ["submit the job", "job: start the trainer", "job: train"]


@pytest.mark.parametrize(
    ("prediction", "classes", "name", "index"),
    [
        ([0.1, 0.7, 0.2], ["a", "b", "c"], "b", 1),
        ([0.1, 0.7, 0.2], None, "1", 1),
        ({"probabilities": [0.9, 0.1], "other": "x"}, ["a", "b"], "a", 0),
        ([3.5], None, "[3.5]", None),
        ("text", None, "text", None),
    ],
)
def test_predictions_are_read(
    prediction: Any, classes: list[str] | None, name: str, index: int | None
) -> None:
    found = top(prediction, classes)
    assert (found.name, found.index) == (name, index)


def test_the_picture_has_a_blue_title_for_right_and_a_red_one_for_wrong(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    images = np.zeros((12, 28, 28, 1), np.uint8)
    samples = Samples(images, [0] * 12, ["T-shirt/top", "Trouser"])
    draw(samples, ["T-shirt/top"] * 12, tmp_path / "right.png")
    draw(samples, ["Trouser"] * 12, tmp_path / "wrong.png")

    def colours(name: str) -> set[tuple[int, ...]]:
        picture = Image.open(tmp_path / name).convert("RGB")
        assert picture.width > 600
        return {colour for _, colour in picture.getcolors(100_000) or ()}

    assert (31, 78, 186) in colours("right.png")
    assert (196, 30, 30) in colours("wrong.png")
    assert (31, 78, 186) not in colours("wrong.png")


def test_sizes_and_times_are_for_people() -> None:
    assert output.size(999) == "999 B"
    assert output.size(1_500_000) == "1.5 MB"
    assert output.number(None) == "not finite"
    assert output.ago(None) == ""


def test_checkpoints_and_the_address_of_chosen_jobs(terminal: Terminal) -> None:
    listed = {
        "path": "checkpoints/000002-00000000.npz", "epoch": 2, "step": 0, "total": 48, "size_bytes": 2_500_000,
        "sha256": "0" * 64, "metrics": {"val_loss": 0.5}, "best": True, "complete": False, "written_at": NOW,
        "verified": True, "problem": None,
    }  # fmt: skip
    harmed = {**listed, "path": "checkpoints/x.npz", "best": False, "verified": False, "problem": "cut short"}
    answers = [
        httpx.Response(200, json=job_body()),
        httpx.Response(200, json={"items": [listed, harmed], "has_more": False}),
    ]
    terminal.answers = [*answers]
    code, out, _ = terminal("checkpoints", JOB)
    assert code == Exit.OK
    for said in (listed["path"], "2.5 MB", "best, verified", "damaged: cut short", "val_loss 0.5"):
        assert str(said) in out
    terminal.answers = [httpx.Response(200, json=job_body(links={"tensorboard": "/tensorboard/"}))]
    code, out, err = terminal("tensorboard", JOB, JOB)
    assert out.strip().endswith(f"/tensorboard/jobs/{JOB},{JOB}/")
    assert err == ""
