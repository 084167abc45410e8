"""A disk that fills up, whatever the job is writing then: its log, event files and checkpoints, the export."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.training.conftest import Supervisor, changed

SPEC = {
    "model": {"builder": "mlp", "params": {"units": [64]}},
    "dataset": {"npz": "ds_digits"},
    "fit": {"epochs": 40, "batch_size": 100},
}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "run"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(disk: Path) -> None:
    """Take all that is left."""
    with (disk / "ballast").open("ab", buffering=0) as file:
        try:
            while True:
                file.write(os.urandom(4096))
        except OSError:
            return


@pytest.mark.parametrize(
    ("when", "stage"),
    [
        (lambda event: event["event"] == "checkpoint", "training"),
        (lambda event: event == {"event": "stage", "stage": "exporting"}, "exporting"),
    ],
)
def test_a_disk_that_fills_up_is_told(
    supervisor: Supervisor,
    digits: Path,
    small_disk: Path,
    when: Callable[[dict[str, Any]], bool],
    stage: str,
) -> None:
    # no training is over before the disk is full
    epochs = 5000 if stage == "training" else 40
    job = supervisor.start(changed(SPEC, fit={"epochs": epochs}), data=digits, run=small_disk.name)
    job.wait_for(when)
    fill(small_disk)
    assert job.finish() == 1, job.tail()
    assert (job.last["event"], job.last["code"]) == ("failed", "disk_full"), job.tail()
    assert job.of("stage")[-1]["stage"] == stage
    assert not list(small_disk.rglob("*.tmp")), "nothing half written stays"


def test_a_disk_that_was_full_before_is_told_though_nothing_can_be_logged(
    supervisor: Supervisor, digits: Path, small_disk: Path
) -> None:
    fill(small_disk)
    assert supervisor.fail(SPEC, data=digits, run=small_disk.name)["code"] == "disk_full"
    assert (small_disk / "job.log").read_text() == ""
