"""Batches that gather by themselves while calls are running."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from services.serving.adaptive import AdaptiveServable, batchable
from services.serving.errors import Code, ServingError, invalid_argument
from services.serving.signature import Array, Signature, TensorSpec

Eventually = Callable[[Callable[[], bool]], None]
SPEC = TensorSpec("t:0", "float", (-1, 1))
SIGNATURE = Signature("s", "", {"x": SPEC}, {"y": SPEC})


class Doubler:
    """y = 2 x; refuses negative numbers. ``gate`` holds calls back; ``entered`` counts them."""

    def __init__(self, signature: Signature = SIGNATURE) -> None:
        self.signatures: Mapping[str, Signature] = MappingProxyType({"s": signature})
        self.signature_def_json: Mapping[str, Any] = MappingProxyType({})
        self.gate = threading.Event()
        self.gate.set()
        self.sizes: list[int] = []

    def run(self, signature: Signature, inputs: Mapping[str, Array], **_: Any) -> dict[str, Array]:
        x = inputs["x"]
        self.sizes.append(len(x))
        assert self.gate.wait(10)
        if (x < 0).any():
            raise invalid_argument("negative")
        return {"y": self.answer(x)}

    def answer(self, x: Array) -> Array:
        return x * 2

    def close(self) -> None:
        pass


class Bench:
    """One place only; ``hold`` takes it until ``gate`` is set."""

    def __init__(self) -> None:
        self.inner = Doubler()
        self.servable = AdaptiveServable(self.inner, frozenset({"s"}), places=1, limit=10)
        self.pool = ThreadPoolExecutor(16)

    def send(self, *values: float, **options: Any) -> Future[dict[str, Array]]:
        x = np.array(values, np.float32).reshape(-1, 1)
        return self.pool.submit(self.servable.run, SIGNATURE, {"x": x}, **options)

    def hold(self, eventually: Eventually) -> Future[dict[str, Array]]:
        self.inner.gate.clear()
        first = self.send(0)
        eventually(lambda: self.inner.sizes == [1])
        return first

    def waiting(self) -> int:
        return sum(len(queue.waiting) for queue in self.servable._queues.values())


def test_what_waits_while_a_call_runs_goes_into_one(eventually: Eventually) -> None:
    bench = Bench()
    first = bench.hold(eventually)
    others = [bench.send(n, n + 0.5) for n in range(1, 6)]
    eventually(lambda: bench.waiting() == 5)
    bench.inner.gate.set()
    assert first.result(10)["y"].tolist() == [[0]]
    for n, other in zip(range(1, 6), others, strict=True):
        assert other.result(10)["y"].tolist() == [[2 * n], [2 * n + 1]]
    assert bench.inner.sizes == [1, 10]


def test_a_lone_request_never_waits() -> None:
    bench = Bench()
    for n in range(3):
        assert bench.send(n).result(10)["y"].tolist() == [[2 * n]]
    assert bench.inner.sizes == [1, 1, 1]
    assert not bench.servable._queues  # nothing is kept of inner shapes that came once


def test_one_bad_request_spoils_no_other(eventually: Eventually) -> None:
    bench = Bench()
    bench.hold(eventually)
    others = [bench.send(n) for n in (1, -1, 3)]
    eventually(lambda: bench.waiting() == 3)
    bench.inner.gate.set()
    assert others[0].result(10)["y"].tolist() == [[2]]
    with pytest.raises(ServingError, match="negative"):
        others[1].result(10)
    assert others[2].result(10)["y"].tolist() == [[6]]


def test_a_deadline_ends_the_waiting(eventually: Eventually) -> None:
    bench = Bench()
    first = bench.hold(eventually)
    late = bench.send(1, timeout=0.05)
    with pytest.raises(ServingError) as caught:
        late.result(10)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    bench.inner.gate.set()
    first.result(10)
    assert bench.inner.sizes == [1]
    assert bench.send(2).result(10)["y"].tolist() == [[4]]


def test_no_call_takes_too_many(eventually: Eventually) -> None:
    bench = Bench()
    bench.hold(eventually)
    others = [bench.send(*([1.0] * 30)) for _ in range(5)]
    eventually(lambda: bench.waiting() == 5)
    bench.inner.gate.set()
    for other in others:
        assert len(other.result(10)["y"]) == 30
    assert bench.inner.sizes == [1, 60, 60, 30]


class Centred(Doubler):
    """Rows that depend on each other."""

    def answer(self, x: Array) -> Array:
        return x - x.mean()


@pytest.mark.parametrize(
    ("servable", "names"),
    [
        (Doubler(), {"s"}),
        (Centred(), set()),
        (Doubler(Signature("s", "", {"x": SPEC}, {"y": TensorSpec("t:0", "float", ())})), set()),
        (Doubler(Signature("s", "", {"x": TensorSpec("t:0", "string", (-1,))}, {"y": SPEC})), set()),
        (Doubler(Signature("s", "", {}, {"y": SPEC})), set()),
    ],
)
def test_only_rows_that_stand_alone_are_batched(servable: Doubler, names: set[str]) -> None:
    assert batchable(servable) == names
