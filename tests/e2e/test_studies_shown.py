"""A study as a person sees it: on the command line, over the API, and in a browser on TensorBoard's HParams page."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
from selenium.webdriver import Chrome

from modelyard.exits import Exit
from tests.browser import chromium
from tests.e2e.conftest import Platform, clean_environment
from tests.studies import HPARAMS_TABLE

pytestmark = [pytest.mark.e2e, pytest.mark.slow]
# what lies in shadow roots too; TensorBoard's page is made of them
DEEP = """
const [selector, within] = arguments;
const found = [];
const walk = (node, inside) => {
  for (const child of node.children || []) {
    const here = inside || child.matches(within);
    if (here && child.matches(selector)) found.push(child);
    if (child.shadowRoot) walk(child.shadowRoot, here);
    walk(child, here);
  }
};
walk(document.body, false);
return found;
"""


def modelyard(platform: Platform, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modelyard", *words],
        env={**clean_environment(), "MODELYARD_URL": platform.url, "PATH": os.environ["PATH"]},
        capture_output=True, text=True, timeout=240, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def study(platform: Platform, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The textbook's grid of 8, followed on the command line."""
    spec = {
        "name": "textbook/grid",
        "base": {
            "model": {"builder": "mlp"},
            "dataset": {"npz": str(platform.data / "digits.npz")},
            "fit": {"epochs": 2, "batch_size": 64},
        },
        "space": {
            "units": {"choice": ["128,64", "256,128"]},
            "dropout": {"uniform": [0.0, 0.1]},
            "fit.optimizer": {"choice": ["adam", "sgd"]},
        },
        "sampler": "grid",
        "objective": {"metric": "val_accuracy"},
    }
    file = tmp_path_factory.mktemp("study") / "spec.json"
    file.write_text(json.dumps(spec))
    done = modelyard(platform, "tune", str(file), "--follow")
    assert done.returncode == Exit.OK, done.stderr
    assert done.stdout.count(" complete: val_accuracy ") == 8
    return done.stderr.split()[0]


def rows(platform: Platform, study: str) -> dict[str, Any]:
    path = f"{platform.url}/tensorboard/jobs/{study}/data/plugin/hparams/session_groups"
    answer = httpx.post(path, json=HPARAMS_TABLE, timeout=60).raise_for_status().json()
    return {group["name"]: group for group in answer["sessionGroups"]}


def test_the_hparams_page_has_every_trial_with_the_values_that_the_api_has(
    platform: Platform, study: str
) -> None:
    with platform.client() as client:
        trials = client.jobs.get(study).trials(limit=100).items
    found = rows(platform, study)
    assert len(found) == len(trials) == 8
    for trial in trials:
        row = found[f"trial {trial.number}"]
        assert row["hparams"] == trial.params
        (session,) = row["sessions"]
        assert session["status"] == "STATUS_SUCCESS"
        values = {
            (value["name"]["group"], value["name"]["tag"]): value["value"] for value in row["metricValues"]
        }
        assert values["validation", "epoch_accuracy"] == pytest.approx(trial.values["val_accuracy"])
        assert values["", "objective/val_accuracy"] == pytest.approx(trial.values["val_accuracy"])


def test_the_command_line_lists_and_draws_it(platform: Platform, study: str, tmp_path: Path) -> None:
    listed = json.loads(modelyard(platform, "trials", study, "--sort", "value", "--json").stdout)["items"]
    values = [trial["values"]["val_accuracy"] for trial in listed]
    assert values == sorted(values, reverse=True)
    shown = modelyard(platform, "study", study).stdout
    assert "8 of 8: 8 complete" in shown
    for kind in ("history", "importance", "parallel"):
        target = tmp_path / f"{kind}.png"
        done = modelyard(platform, "study", study, "--plot", str(target), "--kind", kind, "--json")
        assert done.returncode == Exit.OK, done.stderr
        assert target.read_bytes().startswith(b"\x89PNG")
        assert target.stat().st_size > 8000
        assert json.loads(done.stdout)
    assert modelyard(platform, "study", study, "--plot", "out.gif").returncode == Exit.USAGE
    assert modelyard(platform, "study", "job_none").returncode == Exit.NOT_FOUND
    trial = listed[0]["job_id"]
    assert modelyard(platform, "trials", trial).returncode == Exit.CONFLICT


def test_a_study_of_a_metric_that_there_is_not_fails_in_words(platform: Platform, tmp_path: Path) -> None:
    spec = {
        "base": {
            "model": {"builder": "mlp"},
            "dataset": {"npz": str(platform.data / "digits.npz")},
            "fit": {"epochs": 1},
        },
        "space": {"fit.learning_rate": {"choice": [0.01]}},
        "sampler": "grid",
        "objective": {"metric": "val_beauty"},
    }
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(spec))
    done = modelyard(platform, "tune", str(file), "--follow")
    assert done.returncode == Exit.JOB_FAILED, done.stdout
    assert "trial 0 failed: objective_missing" in done.stdout
    assert "val_accuracy" in done.stderr, "what there is instead"
    found = rows(platform, done.stderr.split()[0])
    (row,) = found.values()
    assert row["sessions"][0]["status"] == "STATUS_FAILURE"


def soon(condition: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the page did not show it in time"
        time.sleep(0.25)
    return found


def deep(browser: Chrome, selector: str, within: str = "*") -> list[Any]:
    return list(browser.execute_script(DEEP, selector, within))


def test_a_browser_shows_the_table_and_the_parallel_coordinates(
    platform: Platform, study: str, tmp_path: Path
) -> None:
    with chromium(tmp_path) as browser:
        browser.get(f"{platform.url}/tensorboard/jobs/{study}/#hparams")

        def cells() -> set[str]:
            return {cell.text for cell in deep(browser, "vaadin-grid-cell-content") if cell.text}

        soon(lambda: {f"trial {number}" for number in range(8)} <= cells())
        shown = cells()
        assert {"units", "dropout", "fit.optimizer", "val_accuracy", "adam", "sgd", "256,128"} <= shown
        (tab,) = (tab for tab in deep(browser, "paper-tab") if "PARALLEL" in tab.text.upper())
        tab.click()
        plot = "tf-hparams-parallel-coords-plot"
        lines = soon(
            lambda: [
                p
                for p in deep(browser, "path", plot)
                if p.is_displayed() and len(p.get_attribute("d") or "") > 20
            ]
        )
        assert len(lines) >= 8, "a line for each trial"
        axes = {text.text for text in deep(browser, "text", plot) if text.text}
        assert {"units", "dropout", "fit.optimizer"} <= axes
        # fonts and the like that TensorBoard's own page asks for in vain are not ours
        faults = [
            e
            for e in browser.get_log("browser")  # type: ignore[no-untyped-call]
            if e["level"] == "SEVERE" and "font-roboto" not in e["message"]
        ]
        assert faults == []
