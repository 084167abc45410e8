"""A real worker, a real broker, a real model server; jobs are put into the store as the API does it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.datasets import load_digits

from shared.job_queue import JobQueue
from shared.jobs import Job, JobState
from shared.settings import Settings
from shared.specs import parse_job
from shared.store import Store, migrate
from tests.conftest import Broker, free_port


class Stack:
    """One home with everything around it. Processes are started by name and may be killed and started again."""

    def __init__(self, home: Path, broker: Broker, **settings: Any) -> None:
        self.home = home
        self.broker = broker
        self.serving_port = free_port()
        values = {
            "home": home,
            "broker_url": broker.url,
            "serving_url": f"http://127.0.0.1:{self.serving_port}",
            "allowed_paths": f"{home.parent}:{home.parent.parent}",
            "sweep_seconds": 0.5,
            "grace_seconds": 20,
            **settings,
        }
        self.environment = {f"MODELYARD_{key.upper()}": str(value) for key, value in values.items()}
        self.settings = Settings(**{key: str(value) for key, value in values.items()})
        migrate(self.settings.store_url)
        self.store = Store(self.settings.store_url)
        self.queue = JobQueue(broker.url)
        self.processes: list[subprocess.Popen[bytes]] = []
        self.memory_limit: int | None = None  # bytes of address space, of each process started from now on
        self.log = home.parent / "processes.log"

    def worker(self) -> subprocess.Popen[bytes]:
        process = self.start("services.worker")
        self.until(lambda: any(one.pid == process.pid for one in self.store.workers.find()), 30)
        return process

    def serving(self) -> subprocess.Popen[bytes]:
        return self.start(
            "services.serving",
            "--rest_api_port",
            str(self.serving_port),
            "--models_dir",
            str(self.home / "models"),
        )

    def start(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        limited = ["prlimit", f"--as={self.memory_limit}"] if self.memory_limit else []
        with self.log.open("ab") as log:
            process = subprocess.Popen(
                [*limited, sys.executable, "-m", module, *arguments],
                env={**os.environ, **self.environment},
                cwd=Path(__file__).parents[3],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def submit(self, **request: Any) -> str:
        job, _ = self.store.jobs.create(parse_job(request))
        self.queue.send(job.id, job.queue)
        self.store.jobs.mark_sent(job.id)
        return job.id

    def job(self, job_id: str) -> Job:
        return self.store.jobs.get(job_id)

    def until(self, condition: Callable[[], Any], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                raise AssertionError(
                    f"waited {seconds} s in vain; the processes said:\n{self.log.read_text()[-6000:]}"
                )
            time.sleep(0.05)

    def until_ended(self, job_id: str, seconds: float = 90) -> Job:
        self.until(lambda: self.job(job_id).state.terminal, seconds)
        return self.job(job_id)

    def until_epoch(self, job_id: str, epoch: int, seconds: float = 60) -> Job:
        """Return when that many epochs have a checkpoint."""

        def reached() -> bool:
            events = self.store.jobs.events(job_id, limit=1000).items
            return any(event.type == "checkpoint" and event.data["epoch"] >= epoch for event in events)

        self.until(reached, seconds)
        return self.job(job_id)

    def succeeded(self, job_id: str, seconds: float = 90) -> Job:
        job = self.until_ended(job_id, seconds)
        assert job.state is JobState.SUCCEEDED, job.error
        return job

    def close(self) -> None:
        for process in self.processes:
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        self.queue.close()
        self.store.close()


@pytest.fixture
def stack(tmp_path: Path, broker: Broker) -> Iterator[Stack]:
    one = Stack(tmp_path / "home", broker)
    one.settings.paths.create()
    yield one
    one.close()


@contextmanager
def stack_in(folder: Path, **settings: Any) -> Iterator[Stack]:
    """A stack with a broker of its own, for several tests of a file."""
    (folder / "broker").mkdir()
    broker = Broker(folder / "broker")
    broker.start()
    one = Stack(folder / "home", broker, **settings)
    one.settings.paths.create()
    try:
        yield one
    finally:
        one.close()
        broker.stop()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """One worker and a model server, for all tests of a file that leave them alive and idle."""
    with stack_in(tmp_path_factory.mktemp("running")) as one:
        one.serving()
        one.worker()
        yield one


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """1,797 real images of handwritten digits, 8x8, as an npz file."""
    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8, 1).astype("uint8")
    file = tmp_path_factory.getbasetemp() / "digits.npz"
    np.savez(file, x_train=images[:1500], y_train=labels[:1500], x_test=images[1500:], y_test=labels[1500:])
    return file


@pytest.fixture
def digits_job(digits: Path) -> Callable[..., dict[str, Any]]:
    """A request to train a small network on the digits."""

    def request(*, epochs: int = 2, publish: str | None = None, **changes: Any) -> dict[str, Any]:
        fit = {"epochs": epochs, "batch_size": 50, **changes.pop("fit", {})}
        return {
            "kind": "train",
            "model": {"builder": "mlp", "params": {"units": [32]}},
            "dataset": {"npz": str(digits)},
            "fit": fit,
            "tensorboard": {"histogram_freq": 0, "write_images": False, "sample_images": 0},
            **({"publish": {"model": publish}} if publish else {}),
            **changes,
        }

    return request


def trainer_pid(job: Job) -> int:
    """The training process of a running job."""
    return int(job.run["trainer_pid"])


def alive(pid: int) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
