"""What tests with TensorFlow share: small real datasets, and a supervisor that runs jobs in child processes."""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from absl import flags
from sklearn.datasets import load_digits, load_iris

from services.worker.preloader import Preloader, Trainer
from services.worker.protocol import EVENT, TrainingRequest
from shared import checkpoint_files

flags.FLAGS.mark_as_parsed()  # lets tf.test.TestCase make temporary folders under pytest


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # tf.test.TestCase.test_session is a context manager, not a test
    items[:] = [item for item in items if item.name != "test_session"]
    for item in items:
        if "tests/training" in str(item.path):
            item.add_marker(pytest.mark.tf)


@dataclass
class Job:
    """A training program under way, or ended, and all that it said."""

    trainer: Trainer
    run_dir: Path
    events: list[dict[str, Any]] = field(default_factory=list)
    _rest: bytes = b""

    def wait_for(self, matches: Callable[[dict[str, Any]], bool], timeout: float = 60) -> dict[str, Any]:
        """The next event that ``matches``."""
        seen, deadline = 0, time.monotonic() + timeout
        while True:
            for event in self.events[seen:]:
                if matches(event):
                    return event
            seen = len(self.events)
            assert time.monotonic() < deadline, f"no such event in {self.tail()}"
            if not self._read(deadline):
                raise AssertionError(f"the program ended without it: {self.tail()}")

    def finish(self, timeout: float = 90) -> int:
        """Read to the end; the exit code."""
        deadline = time.monotonic() + timeout
        while self._read(deadline):
            pass
        while (code := self.trainer.poll()) is None:
            assert time.monotonic() < deadline, "the program did not end"
            time.sleep(0.005)
        return code

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]

    @property
    def last(self) -> dict[str, Any]:
        return self.events[-1]

    def noted(self) -> dict[str, Any]:
        """All facts merged."""
        return {key: value for event in self.of("info") for key, value in event["data"].items()}

    def tail(self) -> str:
        log = (self.run_dir / "job.log").read_text()[-3000:]
        return f"{[e for e in self.events if e['event'] != 'metrics'][-8:]}\n{log}"

    def _read(self, deadline: float) -> bool:
        ready, _, _ = select.select([self.trainer.events], [], [], max(0.0, deadline - time.monotonic()))
        assert ready, f"nothing was said for too long: {self.tail()}"
        data = os.read(self.trainer.events, 65536)
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            EVENT.validate_json(line)
            self.events.append(json.loads(line))
        return bool(data)


@dataclass
class Supervisor:
    """Starts jobs as the worker does, from one warm preloader."""

    preloader: Preloader
    home: Path
    jobs: list[Job] = field(default_factory=list)

    def start(
        self, spec: dict[str, Any], *, data: Path | None = None, run: str = "run", **request: Any
    ) -> Job:
        run_dir = self.home / run
        run_dir.mkdir(parents=True, exist_ok=True)
        full = TrainingRequest(
            **{
                "job_id": "job_test",
                "attempt": 1,
                "spec": spec,
                "run_dir": run_dir,
                "tfds_dir": self.home / "tfds",
                "cache_dir": self.home / "cache",
                "data_file": data,
                "resume_dirs": [run_dir],
                **request,
            }
        )
        job = Job(self.preloader.start(full, run_dir / "job.log"), run_dir)
        self.jobs.append(job)
        return job

    def close(self) -> None:
        for job in self.jobs:
            job.trainer.close()

    def run(self, spec: dict[str, Any], **options: Any) -> Job:
        """Start, wait for the end, and expect success."""
        job = self.start(spec, **options)
        code = job.finish()
        assert code == 0, job.tail()
        return job

    def broken_off(
        self, spec: dict[str, Any], *, at: int, by: signal.Signals = signal.SIGKILL, **options: Any
    ) -> Job:
        """A run that a signal ended once it had a checkpoint at step ``at`` or later, and not between two epochs.

        It is begun anew where the machine was so busy that the signal came too late for that.
        """
        code = 75 if by is signal.SIGTERM else -by
        for _ in range(10):
            job = self.start(spec, **options)
            job.wait_for(lambda event: event["event"] == "checkpoint" and event["step"] >= at)
            os.kill(job.trainer.pid, by)
            ended = job.finish()
            newest = checkpoint_files.listing(job.run_dir)[0]
            if ended == code and newest.step:
                return job
            job.trainer.close()
            self.jobs.remove(job)
            shutil.rmtree(job.run_dir)
        raise AssertionError(f"ten times too late: {job.tail()}")

    def fail(self, spec: dict[str, Any], **options: Any) -> dict[str, Any]:
        """Start, wait for the end, and expect a failure in words; the ``failed`` event."""
        job = self.start(spec, **options)
        code = job.finish()
        assert (code, job.last["event"]) == (1, "failed"), job.tail()
        assert job.last["message"]
        return job.last


@pytest.fixture(scope="session")
def preloader() -> Preloader:
    return Preloader(warm=True)


@pytest.fixture
def supervisor(preloader: Preloader, tmp_path: Path) -> Iterator[Supervisor]:
    with closing(Supervisor(preloader, tmp_path)) as supervisor:
        yield supervisor


@pytest.fixture(scope="module")
def shared_supervisor(preloader: Preloader, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervisor]:
    """For jobs that several tests of a file look at, none of which may change what they left."""
    with closing(Supervisor(preloader, tmp_path_factory.mktemp("shared"))) as supervisor:
        yield supervisor


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,797 handwritten digits as uint8 images [8, 8, 1] with values to 255; 1,500 to train on."""
    bunch = load_digits()
    x = (bunch.images * (255 / 16)).astype(np.uint8)[..., np.newaxis]
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    np.savez(path, x_train=x[:1500], y_train=bunch.target[:1500], x_test=x[1500:], y_test=bunch.target[1500:])
    return path


@pytest.fixture(scope="session")
def iris(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 flowers: four numbers and the name of the species."""
    bunch = load_iris()
    path = tmp_path_factory.mktemp("iris") / "iris.csv"
    lines = ["sepal_length,sepal_width,petal_length,petal_width,species"]
    for row, target in zip(bunch.data, bunch.target, strict=True):
        lines.append(",".join(f"{value:g}" for value in row) + f",{bunch.target_names[target]}")
    path.write_text("\n".join(lines) + "\n")
    return path


# histograms, pictures and graphs cost a fifth of a small job: tests that look at them ask for them
SCALARS_ALONE: dict[str, Any] = {
    "histogram_freq": 0, "write_images": False, "write_graph": False, "sample_images": 0, "confusion_matrix": False,
}  # fmt: skip
DIGITS_JOB: dict[str, Any] = {
    "model": {"builder": "mlp", "params": {"units": "32"}},
    "dataset": {"npz": "ds_digits"},
    "fit": {"epochs": 2, "batch_size": 64},
    "tensorboard": SCALARS_ALONE,
}


def changed(base: dict[str, Any], **parts: dict[str, Any]) -> dict[str, Any]:
    """A copy of a job with members of its parts replaced: ``changed(job, fit={"epochs": 3})``."""
    return base | {name: base.get(name, {}) | part for name, part in parts.items()}
