"""The genuine tensorflow_datasets builder, fed from Debian's package where its own host is out of reach."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from services.worker.training.data import download
from services.worker.training.failures import TrainingFailed
from tests.conftest import unavailable
from tests.training.conftest import Supervisor


class Said:
    """An emitter that remembers."""

    def __init__(self) -> None:
        self.facts: dict[str, object] = {}
        self.warnings: list[str] = []

    def note(self, **facts: object) -> None:
        self.facts |= facts

    def warn(self, code: str, message: str) -> None:
        self.warnings.append(code)


@pytest.mark.slow
def test_a_second_job_starts_without_downloading_or_decoding_again(supervisor: Supervisor) -> None:
    spec = {
        "model": {"builder": "mlp", "params": {"units": [16]}},
        "dataset": {"tfds": "fashion_mnist", "train_split": "train[:10%]", "test_split": "test[:10%]"},
        "fit": {"epochs": 1},
    }
    first = supervisor.start(spec, run="first")
    code = first.finish(timeout=250)
    if code != 0 and first.last.get("code") == "data_unreachable":
        unavailable(str(first.last["message"]))
    assert code == 0, first.tail()
    assert first.noted()["data"]["rows"] == {"train": 6000, "validation": 1000, "test": 1000}
    assert first.last["classes"][-1] == "Ankle boot"

    second = supervisor.run(spec, run="second")
    timings = second.noted()["timings"]
    assert timings["data_ready"] - timings["preparing_data"] < 0.5
    assert second.noted()["data"]["fingerprint"] == first.noted()["data"]["fingerprint"]
    assert second.of("warning") == []


def test_an_unreachable_host_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "unreachable", lambda url: "example.invalid: no answer")
    started = time.monotonic()
    with pytest.raises(TrainingFailed, match="can't be reached") as caught:
        download.prepared_builder("kmnist", tmp_path, Said())  # type: ignore[arg-type]
    assert caught.value.code == "data_unreachable"
    assert time.monotonic() - started < 30


def test_a_name_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(TrainingFailed, match="no dataset 'fashion_mnits'"):
        download.prepared_builder("fashion_mnits", tmp_path, Said())  # type: ignore[arg-type]


def test_the_probe_gives_up_in_time() -> None:
    started = time.monotonic()
    problem = download.unreachable("http://host.invalid/file", seconds=1.0)
    assert problem is not None
    assert problem.startswith("host.invalid:")
    assert time.monotonic() - started < 20
