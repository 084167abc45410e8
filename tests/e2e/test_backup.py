"""A backup taken from a running platform becomes another platform that answers the same, and finishes the same jobs."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from modelyard import Client, Job
from modelyard.client.events import Event
from modelyard.errors import Unavailable
from modelyard.exits import Exit
from shared.views import PredictResponse
from tests.e2e.conftest import Platform, clean_environment, digits_job, start_up, stop_up, wait_up

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def modelyard(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modelyard", *map(str, arguments)],
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def loaded(client: Client, model: str, rows: object) -> PredictResponse:
    """The answer, once the model server has loaded what it found."""
    deadline = time.monotonic() + 90
    while True:
        try:
            return client.predict(model, instances=rows)
        except Unavailable:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.2)


def until_resumed(client: Client, job_id: str) -> Job:
    """The job, once it goes on from a checkpoint."""
    deadline = time.monotonic() + 180
    while "resumed_from" not in (job := client.jobs.get(job_id)).view.run:
        assert time.monotonic() < deadline, job.view
        time.sleep(0.2)
    return job


def test_a_backup_becomes_a_platform_of_its_own(
    platform: Platform, digits_model: str, tmp_path: Path
) -> None:
    with np.load(platform.data / "digits.npz") as data:
        image = data["x_test"][:1].tolist()
    # it must still run when the command line has come up on a busy machine
    long = digits_job(platform, None, epochs=100_000)
    with platform.client() as client:
        before = client.predict(digits_model, instances=image)
        job = client.jobs.submit(long)
        for event in job.follow():
            if isinstance(event, Event) and event.type == "checkpoint":
                break
        taken = modelyard("backup", tmp_path / "backups", "--home", platform.home.root)
        job.cancel()
    assert taken.returncode == 0, taken.stderr

    refused = modelyard("restore", tmp_path / "backups", "--home", platform.home.root)
    assert refused.returncode == Exit.ALREADY_UP
    home = tmp_path / "restored"
    restored = modelyard("restore", tmp_path / "backups", "--home", home)
    assert restored.returncode == 0, restored.stderr
    assert restored.stdout == taken.stdout

    process = start_up(home, "--allow-path", str(platform.data))
    try:
        with Client(wait_up(process, home).url) as client:
            assert loaded(client, digits_model, image) == before
            went_on = until_resumed(client, job.id)
            assert went_on.view.run["resumed_from"]["epoch"] > 0
            went_on.cancel()
            ended = went_on.wait(timeout=60, check=False).view
            assert [attempt.outcome for attempt in ended.attempts or []] == ["released", "cancelled"]
    finally:
        stop_up(process)
    again = modelyard("restore", tmp_path / "backups", "--home", home)
    assert again.returncode == Exit.BACKUP_FAILED
    assert "already" in again.stderr
