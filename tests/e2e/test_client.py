"""The client and the command line against the running platform, with real training."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from modelyard import AsyncClient, Client, Conflict, Ended, Event, InvalidRequest, NotFound, Progress
from modelyard.exits import Exit
from modelyard.launcher.state import read_state
from modelyard.predictions import top
from shared.home import Home
from tests.e2e.conftest import (
    Platform,
    clean_environment,
    digits_job,
    start_up,
    stop_up,
    wait_up,
    write_digits,
)

pytestmark = pytest.mark.e2e


def modelyard(platform: Platform, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modelyard", *words],
        env={**clean_environment(), "MODELYARD_URL": platform.url},
        input=stdin,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_a_job_is_followed_from_its_first_event_to_its_end(platform: Platform) -> None:
    with platform.client() as client:
        job = client.jobs.submit(digits_job(platform, None, epochs=4))
        events = list(job.follow())
        stored = [event for event in events if isinstance(event, Event)]
        assert [event.seq for event in stored] == list(range(1, len(stored) + 1))
        states = [event.state for event in stored if event.type == "state"]
        assert states == ["queued", "running", "succeeded"]
        assert [event.epoch for event in stored if event.type == "epoch"] == [1, 2, 3, 4]
        assert {"training", "evaluating"} <= {event.stage for event in stored if event.type == "stage"}
        assert any(isinstance(event, Progress) for event in events)
        assert isinstance(events[-1], Ended)
        assert events[-1].job == job.view
        assert [event.seq for event in job.history()] == [event.seq for event in stored]
        series = {item.name: item for item in job.metrics(max_points=3).series}
        assert "loss" in series
        assert job.logs()


def test_a_published_model_answers_what_it_learned(platform: Platform, digits_model: str) -> None:
    with np.load(platform.data / "digits.npz") as data:
        images, labels = data["x_test"], data["y_test"]
    with platform.client() as client:
        answer = client.predict(digits_model, instances=images)
        found = [top(row, None).index for row in answer.predictions or ()]
        assert np.mean(np.asarray(found) == labels) > 0.85
        served = client.models.version(digits_model, answer.version or 0)
        assert served.serving_state == "AVAILABLE"
        assert (
            client.models.set_label(digits_model, "stable", served.version).labels["stable"] == served.version
        )
        assert client.predict(digits_model, label="stable", instances=images[:1]).version == served.version
        with pytest.raises(Conflict):
            client.models.delete_version(digits_model, served.version)
        client.models.delete_label(digits_model, "stable")


def test_the_async_client_asks_many_at_once(platform: Platform, digits_model: str) -> None:
    with np.load(platform.data / "digits.npz") as data:
        images = data["x_test"][:20]

    async def ask() -> list[object]:
        async with AsyncClient(platform.url) as client:
            single = (client.predict(digits_model, instances=images[i : i + 1]) for i in range(len(images)))
            answers = await asyncio.gather(*single)
            together = await client.predict(digits_model, instances=images)
            return [[row for answer in answers for row in answer.predictions or ()], together.predictions]

    apart, together = asyncio.run(ask())
    np.testing.assert_allclose(apart, together, atol=1e-5)


def test_an_upload_is_streamed_found_and_deleted(platform: Platform, tmp_path: Path) -> None:
    rows = "\n".join(f"{number},{number % 7}" for number in range(200_000))
    (tmp_path / "week days.csv").write_text(f"day,weekday\n{rows}\n")
    with platform.client() as client:
        view = client.datasets.upload(tmp_path / "week days.csv")
        assert view.size_bytes == (tmp_path / "week days.csv").stat().st_size
        assert view.id in {item.id for item in client.datasets.list().items}
        assert client.datasets.get(view.id) == view
        client.datasets.delete(view.id)
        with pytest.raises(NotFound):
            client.datasets.get(view.id)


def test_a_cancelled_job_ends_so_and_can_be_retried(platform: Platform) -> None:
    with platform.client() as client:
        job = client.jobs.submit(digits_job(platform, None, epochs=5000))
        for event in job.follow():
            if isinstance(event, Event) and event.type == "epoch":
                break
        job.cancel()
        assert job.wait(timeout=60, check=False).state == "cancelled"
        again = job.retry()
        assert again.view.retry_of == job.id
        again.cancel()
        again.wait(timeout=60, check=False)


def test_a_wrong_spec_is_refused_with_its_field(platform: Platform) -> None:
    with platform.client() as client, pytest.raises(InvalidRequest) as caught:
        client.jobs.submit({**digits_job(platform, None), "fit": {"epochs": "many"}})
    assert caught.value.field == "fit.epochs"


def test_the_command_line_trains_lists_and_predicts(platform: Platform, tmp_path: Path) -> None:
    data = str(platform.data / "digits.npz")
    words = (
        "train",
        "--builder",
        "mlp",
        "--npz",
        data,
        "--epochs",
        "2",
        "--publish",
        "digits-cli",
        "--follow",
    )
    done = modelyard(platform, *words)
    assert done.returncode == Exit.OK, done.stderr
    assert "epoch 2:" in done.stdout
    assert "digits-cli version 1" in done.stdout

    listed = json.loads(modelyard(platform, "jobs", "--model", "digits-cli", "--json").stdout)
    job_id = listed["items"][0]["id"]
    assert job_id in modelyard(platform, "jobs").stdout
    assert json.loads(modelyard(platform, "job", job_id, "--json").stdout)["state"] == "succeeded"
    assert modelyard(platform, "logs", job_id).returncode == Exit.OK
    assert modelyard(platform, "retry", job_id).returncode == Exit.CONFLICT
    assert modelyard(platform, "job", "job_0123456789abcdefghjkmn").returncode == Exit.NOT_FOUND
    assert "AVAILABLE" in modelyard(platform, "models", "digits-cli").stdout

    with np.load(data) as arrays:
        rows = json.dumps(arrays["x_test"][:2].tolist())
    answered = json.loads(modelyard(platform, "predict", "digits-cli", "--json", "-", stdin=rows).stdout)
    assert len(answered["predictions"]) == 2


def test_the_doctor_finds_the_running_platform_well(platform: Platform) -> None:
    done = modelyard(platform, "doctor", "--home", str(platform.home.root), "--json")
    findings = {item["check"]: item for item in json.loads(done.stdout)}
    assert findings["platform"]["status"] == "ok", findings
    assert findings["devices"]["status"] == "ok"
    assert done.returncode == Exit.OK


@pytest.mark.slow
def test_a_follower_survives_the_api_being_killed(tmp_path: Path) -> None:
    write_digits(tmp_path)
    process = start_up(tmp_path / "home", "--allow-path", str(tmp_path))
    try:
        state = wait_up(process, tmp_path / "home")
        spec = {
            "model": {"builder": "mlp"},
            "dataset": {"npz": str(tmp_path / "digits.npz")},
            "fit": {"epochs": 60, "batch_size": 8},
        }
        with Client(state.url) as client:
            job = client.jobs.submit(spec)
            seen: list[int] = []
            killed = threading.Event()
            for event in job.follow():
                if isinstance(event, Event):
                    seen.append(event.seq)
                    if event.type == "epoch" and not killed.is_set():
                        killed.set()
                        os.kill(state.parts["api"], signal.SIGKILL)
            assert job.state == "succeeded"
        assert killed.is_set()
        assert seen == list(range(1, len(seen) + 1))
        renewed = read_state(Home(tmp_path / "home"))
        assert renewed is not None
        assert renewed.parts["api"] != state.parts["api"]
    finally:
        stop_up(process)
