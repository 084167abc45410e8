"""Stopping, dying and going on: the end must be the same as if nothing had happened."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from filelock import FileLock

from shared import checkpoint_files
from tests.training.conftest import DIGITS_JOB, Job, Supervisor, changed

# Dropout makes the seed generators' state matter, Adam the optimizer's, the callbacks theirs
EXACT = changed(
    DIGITS_JOB,
    model={"builder": "mlp", "params": {"units": "32", "dropout": 0.2}},
    fit={
        "epochs": 6,
        "batch_size": 8,
        "deterministic": True,
        "callbacks": [
            {"name": "ReduceLROnPlateau", "params": {"monitor": "loss", "patience": 1, "min_delta": 0.2}},
            {
                "name": "EarlyStopping",
                "params": {"monitor": "val_loss", "patience": 3, "restore_best_weights": True},
            },
        ],
    },
    checkpoint={"every": 50, "keep": 2},
)


def _weights(run_dir: Path) -> list[np.ndarray[Any, Any]]:
    loaded = tf.saved_model.load(str(run_dir / "export"))
    return [variable.numpy() for variable in loaded.variables]


@pytest.fixture(scope="module")
def whole(shared_supervisor: Supervisor, digits: Path) -> Job:
    """Nothing happened to it, and its rows lay in memory."""
    return shared_supervisor.run(EXACT, data=digits, run="whole")


def test_a_killed_job_ends_with_the_very_weights_of_an_uninterrupted_one(
    supervisor: Supervisor, digits: Path, whole: Job
) -> None:
    supervisor.broken_off(EXACT, data=digits, run="broken", at=400)
    resumed = supervisor.run(EXACT, data=digits, run="broken")

    place = resumed.noted()["resumed_from"]
    assert place["total"] >= 400
    assert place["step"] > 0, "in the middle of an epoch"
    assert resumed.last["metrics"] == whole.last["metrics"]
    for one, other in zip(_weights(whole.run_dir), _weights(resumed.run_dir), strict=True):
        np.testing.assert_array_equal(one, other)
    # the broken epoch's means cover its first part too
    expected = {event["epoch"]: event["metrics"] for event in whole.of("epoch")}
    for event in resumed.of("epoch"):
        assert event["metrics"] == expected[event["epoch"]]


def test_rows_streamed_by_tf_data_give_the_very_weights_of_rows_in_memory_though_killed(
    supervisor: Supervisor, digits: Path, whole: Job
) -> None:
    streamed_spec = changed(EXACT, dataset={"cache": False})
    supervisor.broken_off(streamed_spec, data=digits, run="broken", at=250)
    resumed = supervisor.run(streamed_spec, data=digits, run="broken")
    assert resumed.noted()["resumed_from"]["step"] > 0, "in the middle of an epoch"
    assert resumed.noted()["data"]["kept"] == "disk"
    for one, other in zip(_weights(whole.run_dir), _weights(resumed.run_dir), strict=True):
        np.testing.assert_array_equal(one, other)


def test_sigterm_writes_a_checkpoint_within_a_second_and_a_retry_goes_on(
    supervisor: Supervisor, digits: Path
) -> None:
    spec = changed(DIGITS_JOB, fit={"epochs": 500, "batch_size": 8})
    job = supervisor.start(spec, data=digits)
    job.wait_for(lambda event: event["event"] == "epoch")
    asked = time.monotonic()
    job.trainer.terminate()
    assert job.finish() == 75
    assert time.monotonic() - asked < 15  # the machine may be busy; measured alone: 0.2 s
    assert job.last["event"] == "stopped"
    assert (job.run_dir / job.last["checkpoint"]).is_file()

    retried = supervisor.start(spec, data=digits)
    fact = retried.wait_for(lambda event: event["event"] == "info" and "resumed_from" in event["data"])
    assert fact["data"]["resumed_from"]["total"] == job.of("checkpoint")[-1]["step"]


def test_sigterm_before_training_stops_without_a_checkpoint(supervisor: Supervisor, digits: Path) -> None:
    job = supervisor.start(DIGITS_JOB, data=digits)
    job.wait_for(lambda event: event["event"] == "stage")
    job.trainer.terminate()
    assert job.finish() == 75
    assert job.last == {"event": "stopped", "checkpoint": None}


LOGGED = changed(
    DIGITS_JOB,
    fit={"callbacks": [{"name": "CSVLogger", "params": {"filename": "log.csv"}}]},
    checkpoint={"every": "epoch", "keep": 2},
)


@pytest.fixture(scope="module")
def done(shared_supervisor: Supervisor, digits: Path) -> Job:
    """It came to its end, in a folder that nobody changes."""
    return shared_supervisor.run(LOGGED, data=digits, run="done")


@pytest.fixture
def left(supervisor: Supervisor, done: Job) -> Path:
    """Its folder, to be gone on in."""
    return Path(shutil.copytree(done.run_dir, supervisor.home / "run"))


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(
    supervisor: Supervisor, digits: Path, left: Path
) -> None:
    newest = sorted((left / "checkpoints").glob("*.npz"))[-1]
    data = bytearray(newest.read_bytes())
    data[len(data) // 2] ^= 1
    newest.write_bytes(data)

    job = supervisor.run(LOGGED, data=digits)
    assert [event["code"] for event in job.of("warning")] == ["checkpoint_damaged"]
    assert job.noted()["resumed_from"] == {"epoch": 1, "step": 0, "total": 24}
    assert [event["epoch"] for event in job.of("epoch")] == [2]


def test_when_no_checkpoint_is_sound_training_starts_from_scratch_with_warnings(
    supervisor: Supervisor, digits: Path, left: Path
) -> None:
    folder = left / "checkpoints"
    arrays, notes = sorted(folder.glob("*.npz")), sorted(folder.glob("*.json"))
    arrays[0].write_bytes(arrays[0].read_bytes()[:100])
    notes[1].write_text(notes[1].read_text()[:100])
    (folder / ".000009-00000000.npz.tmp").write_bytes(b"half")
    again = supervisor.run(LOGGED, data=digits)
    codes = [event["code"] for event in again.of("warning")]
    assert codes == ["checkpoint_damaged", "checkpoint_damaged", "checkpoint_none"]
    assert [event["epoch"] for event in again.of("epoch")] == [1, 2]
    assert [line.split(",")[0] for line in (left / "log.csv").read_text().splitlines()] == [
        "epoch",
        "0",
        "1",
    ]
    assert not list(folder.glob(".*"))


def test_a_retry_in_a_folder_of_its_own_has_the_whole_history(supervisor: Supervisor, digits: Path) -> None:
    callbacks = [
        {"name": "CSVLogger", "params": {"filename": "log.csv"}},
        {"name": "ModelCheckpoint", "params": {"filepath": "{epoch}.weights.h5", "save_weights_only": True}},
    ]
    spec = changed(DIGITS_JOB, fit={"epochs": 4, "deterministic": True, "callbacks": callbacks})
    whole = supervisor.run(spec, data=digits, run="whole")
    job = supervisor.start(spec, data=digits, run="old")
    job.wait_for(lambda event: event["event"] == "checkpoint" and event["epoch"] == 2)
    os.kill(job.trainer.pid, signal.SIGKILL)
    job.finish()
    folders = [supervisor.home / "new", supervisor.home / "old"]
    retried = supervisor.run(spec, data=digits, run="new", resume_dirs=folders)
    assert retried.noted()["resumed_from"]["epoch"] >= 2
    assert retried.last["metrics"] == whole.last["metrics"]
    for name in ("log.csv",):
        assert (retried.run_dir / name).read_bytes() == (whole.run_dir / name).read_bytes()
    assert len(list(retried.run_dir.glob("*.weights.h5"))) == 4
    best = [file.path for file in checkpoint_files.listing(retried.run_dir) if file.best]
    assert best == [file.path for file in checkpoint_files.listing(whole.run_dir) if file.best]


def test_a_job_that_was_lost_after_training_is_only_evaluated_and_exported_again(
    supervisor: Supervisor, digits: Path, left: Path, done: Job
) -> None:
    again = supervisor.run(LOGGED, data=digits)
    assert again.of("epoch") == []
    assert again.last["metrics"] == done.last["metrics"]


def test_a_checkpoint_of_other_data_is_not_resumed(supervisor: Supervisor, digits: Path, left: Path) -> None:
    other = supervisor.run(changed(LOGGED, fit={"seed": 5}), data=digits)
    assert {event["code"] for event in other.of("warning")} == {"checkpoint_foreign", "checkpoint_none"}
    assert len(other.of("epoch")) == 2


def test_the_program_ends_with_its_supervisor(supervisor: Supervisor, digits: Path) -> None:
    job = supervisor.start(changed(DIGITS_JOB, fit={"epochs": 1000}), data=digits)
    job.wait_for(lambda event: event["event"] == "epoch")
    os.close(job.trainer._lifeline)
    assert job.finish(timeout=30) == -signal.SIGKILL
    job.trainer._lifeline = os.dup(job.trainer.events)  # for close


def test_sigterm_ends_a_job_that_waits_for_anothers_download(supervisor: Supervisor) -> None:
    # the lock of the download, held by somebody else
    folder = supervisor.home / "tfds"
    folder.mkdir()
    with FileLock(folder / ".fashion_mnist-3.0.1.lock"):
        job = supervisor.start({"model": {"builder": "lenet5"}, "dataset": {"tfds": "fashion_mnist"}})
        job.wait_for(lambda event: event["event"] == "stage")
        time.sleep(1.0)
        asked = time.monotonic()
        job.trainer.terminate()
        assert job.finish() == 75
        assert time.monotonic() - asked < 15
    assert job.last == {"event": "stopped", "checkpoint": None}
