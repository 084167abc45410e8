"""A servable without TensorFlow, and a manager that loads such."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from services.serving.errors import Code, ServingError
from services.serving.manager import ModelManager, RetryRule
from services.serving.signature import Array, Signature, TensorSpec

HALF_PLUS_TWO = Signature(
    "serving_default",
    "tensorflow/serving/predict",
    {"x": TensorSpec("x:0", "float", (-1, 1))},
    {"y": TensorSpec("y:0", "float", (-1, 1))},
)


class FakeServable:
    """y = x / 2 + 2. ``gate`` holds calls back until it is set."""

    def __init__(self) -> None:
        self.signatures: Mapping[str, Signature] = MappingProxyType({"serving_default": HALF_PLUS_TWO})
        self.signature_def_json: Mapping[str, Any] = MappingProxyType(
            {"serving_default": {"method_name": "m"}}
        )
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False

    def run(self, signature: Signature, inputs: Mapping[str, Array], **_: Any) -> dict[str, Array]:
        assert not self.closed
        assert self.gate.wait(10)
        assert not self.closed
        return {"y": inputs["x"] / np.float32(2) + np.float32(2)}

    def close(self) -> None:
        self.closed = True


class FakeLoader:
    """Makes fakes by path; ``failures`` counts down per path, ``gates`` hold loads back."""

    def __init__(self) -> None:
        self.loaded: dict[str, FakeServable] = {}
        self.attempts: list[str] = []
        self.failures: dict[str, int] = {}
        self.gates: dict[str, threading.Event] = {}

    def __call__(self, path: str) -> FakeServable:
        self.attempts.append(path)
        if path in self.gates:
            assert self.gates[path].wait(10)
        if self.failures.get(path, 0) > 0:
            self.failures[path] -= 1
            raise ServingError(Code.NOT_FOUND, f"nothing at {path}")
        self.loaded[path] = FakeServable()
        return self.loaded[path]


@pytest.fixture
def loader() -> FakeLoader:
    return FakeLoader()


@pytest.fixture
def manager(loader: FakeLoader) -> Iterator[ModelManager]:
    manager = ModelManager(loader, retry=RetryRule(retries=2, interval_seconds=0.05))
    manager.start()
    yield manager
    for gate in loader.gates.values():
        gate.set()
    manager.stop()


@pytest.fixture
def eventually() -> Callable[[Callable[[], bool]], None]:
    """Wait until a condition holds; fail after five seconds."""

    def wait(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 5
        while not condition():
            assert time.monotonic() < deadline, "it never came true"
            time.sleep(0.005)

    return wait


@pytest.fixture
def version_folder(tmp_path: Path) -> Callable[[str, int], Path]:
    """Make ``<tmp>/<model>/<version>/saved_model.pb``; the version's folder."""

    def make(model: str, version: int) -> Path:
        folder = tmp_path / model / str(version)
        folder.mkdir(parents=True)
        (folder / "saved_model.pb").write_bytes(b"graph")
        return folder

    return make
