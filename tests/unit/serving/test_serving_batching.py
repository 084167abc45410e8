"""Requests that share a batch get their own rows back; limits and errors are TensorFlow Serving's."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

from services.serving.batching import BatchedServable, BatchingOptions, Scheduler
from services.serving.config import parse_batching_config
from services.serving.errors import Code, ServingError
from services.serving.signature import Array, Signature, TensorSpec
from services.serving.textproto import ConfigError

Eventually = Callable[[Callable[[], bool]], None]
FLOAT = TensorSpec("t:0", "float", None)
SIGNATURE = Signature("s", "", {"x": FLOAT}, {"sum": FLOAT, "y": FLOAT})


class Adder:
    """y = x + 1, sum over each row; notes the shapes it was called with. ``gate`` holds calls back."""

    def __init__(self) -> None:
        self.signatures: Mapping[str, Signature] = MappingProxyType({"s": SIGNATURE})
        self.signature_def_json: Mapping[str, Any] = MappingProxyType({})
        self.shapes: list[tuple[int, ...]] = []
        self.timeouts: list[float | None] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None
        self.drop_batch = False

    def run(
        self, signature: Signature, inputs: Mapping[str, Array], *, timeout: float | None = None, **_: Any
    ) -> dict[str, Array]:
        self.shapes.append(inputs["x"].shape)
        self.timeouts.append(timeout)
        assert self.gate.wait(10)
        if self.error is not None:
            raise self.error
        total = inputs["x"].sum(axis=tuple(range(1, inputs["x"].ndim)))
        return {"y": inputs["x"] + 1, "sum": total.sum() if self.drop_batch else total}

    def close(self) -> None:
        pass


def rows(*values: float) -> Array:
    return np.array(values, np.float32)


class Bench:
    """A batched ``Adder`` and a pool of callers."""

    def __init__(self, **options: Any) -> None:
        self.adder = Adder()
        options = {"max_batch_size": 4, "timeout_seconds": 0.05, "threads": 1, **options}
        self.scheduler = Scheduler(BatchingOptions(**options))
        self.servable = BatchedServable(self.adder, self.scheduler, limit=math.inf)
        self._pool = ThreadPoolExecutor(16)

    def call(self, x: Array, **options: Any) -> dict[str, Array]:
        return self.servable.run(SIGNATURE, {"x": x}, **options)

    def together(self, *inputs: Array) -> list[dict[str, Array]]:
        return list(self._pool.map(self.call, inputs))


def test_requests_that_come_together_share_a_call() -> None:
    bench = Bench(timeout_seconds=10)
    answers = bench.together(rows(1), rows(2, 3), rows(4))
    assert [answer["y"].tolist() for answer in answers] == [[2], [3, 4], [5]]
    assert [answer["sum"].tolist() for answer in answers] == [[1], [2, 3], [4]]
    assert bench.adder.shapes == [(4,)]


def test_a_lone_request_waits_its_time_and_a_full_batch_does_not() -> None:
    bench = Bench(timeout_seconds=0.2)
    began = time.monotonic()
    bench.call(rows(1))
    assert time.monotonic() - began >= 0.2
    began = time.monotonic()
    Bench(timeout_seconds=10).together(rows(1, 2), rows(3, 4))
    assert time.monotonic() - began < 5


def test_what_does_not_fit_goes_into_the_next_batch() -> None:
    bench = Bench()
    assert sorted(len(answer["y"]) for answer in bench.together(rows(1, 2, 3), rows(4, 5, 6))) == [3, 3]
    assert bench.adder.shapes == [(3,), (3,)]


def test_other_shapes_do_not_spoil_a_batch() -> None:
    """tensorflow/serving issue 1934: all requests of such a batch failed."""
    bench = Bench()
    answers = bench.together(np.ones((1, 2), np.float32), np.ones((1, 3), np.float32))
    assert [answer["sum"].tolist() for answer in answers] == [[2], [3]]
    assert sorted(bench.adder.shapes) == [(1, 2), (1, 3)]


def test_padding_fills_with_the_first_value() -> None:
    bench = Bench(pad=True, max_batch_size=2, timeout_seconds=10)
    answers = bench.together(np.full((1, 2), 5, np.float32), np.full((1, 3), 7, np.float32))
    assert [answer["sum"].tolist() for answer in answers] == [[15], [21]]
    assert bench.adder.shapes == [(2, 3)]


def test_a_large_request_is_split_over_calls() -> None:
    bench = Bench(max_batch_size=10, largest_run=4)
    (answer,) = bench.together(rows(*range(7)))
    assert answer["y"].tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert bench.adder.shapes == [(4,), (3,)]
    with pytest.raises(ServingError, match="Task size 11 is larger than maximum input batch size 10"):
        bench.call(rows(*range(11)))


def test_a_split_request_that_finds_the_queue_full_leaves_nothing_running() -> None:
    bench = Bench(max_batch_size=10, largest_run=2, max_enqueued_batches=2, timeout_seconds=0.3)
    with pytest.raises(ServingError, match="queue to which this task was submitted is full"):
        bench.call(rows(*range(10)))
    time.sleep(0.4)
    assert sum(shape[0] for shape in bench.adder.shapes) in (0, 4, 6, 8)
    assert bench.call(rows(1))["y"].tolist() == [2]


def test_splitting_by_configuration() -> None:
    text = (
        "max_batch_size { value: 8 } max_execution_batch_size { value: 4 }"
        " enable_large_batch_splitting { value: true } allowed_batch_sizes: 4"
    )
    assert parse_batching_config(text, 1).run_limit == 4


def test_a_batch_is_filled_up_to_an_allowed_size() -> None:
    bench = Bench(allowed_sizes=(2, 4))
    (answer,) = bench.together(rows(1, 2, 3))
    assert answer["y"].tolist() == [2, 3, 4]
    assert bench.adder.shapes == [(4,)]


def test_a_request_of_no_rows_is_not_filled_up() -> None:
    assert Bench(allowed_sizes=(2, 4)).call(rows())["y"].tolist() == []


@pytest.mark.parametrize(
    ("inputs", "part"),
    [
        ({"x": np.zeros(5)}, "Task size 5 is larger than maximum input batch size 4"),
        ({"x": np.zeros(())}, "must have at least one dimension"),
        ({"x": np.zeros(2), "z": np.zeros(3)}, "must have equal 0th-dimension size"),
    ],
)
def test_what_can_not_be_batched(inputs: dict[str, Array], part: str) -> None:
    with pytest.raises(ServingError, match=part) as caught:
        Bench().servable.run(SIGNATURE, inputs)
    assert caught.value.code is Code.INVALID_ARGUMENT


def test_a_full_queue_is_unavailable_and_a_deadline_holds_in_the_queue(eventually: Eventually) -> None:
    bench = Bench(max_enqueued_batches=1, timeout_seconds=0)
    bench.adder.gate.clear()
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(bench.call, rows(1))
        eventually(lambda: len(bench.adder.shapes) == 1)
        queued = pool.submit(bench.call, rows(1, 2, 3, 4), timeout=0.5)
        eventually(lambda: len(bench.scheduler._queues) == 1)
        with pytest.raises(ServingError) as caught:
            bench.call(rows(1))
        assert caught.value.code is Code.UNAVAILABLE
        with pytest.raises(ServingError) as caught:
            queued.result(5)
        assert caught.value.code is Code.DEADLINE_EXCEEDED
        bench.adder.gate.set()
        assert running.result(5)["y"].tolist() == [2]
    # What gave up in the queue is not computed.
    assert bench.call(rows(7))["y"].tolist() == [8]
    assert bench.adder.shapes == [(1,), (1,)]


def test_a_running_batch_is_waited_for_even_past_the_deadline(eventually: Eventually) -> None:
    bench = Bench(timeout_seconds=0)
    bench.adder.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(bench.call, rows(1), timeout=0.3)
        eventually(lambda: len(bench.adder.shapes) == 1)
        time.sleep(0.4)
        assert not call.done()  # the version would be unloaded under the running graph
        bench.adder.gate.set()
        with pytest.raises(ServingError) as caught:
            call.result(5)
    assert caught.value.code is Code.DEADLINE_EXCEEDED
    (timeout,) = bench.adder.timeouts
    assert timeout is not None
    assert timeout <= 0.3


def test_errors_reach_every_request_of_the_batch_and_only_those() -> None:
    bench = Bench()
    bench.adder.error = ServingError(Code.ABORTED, "no")
    with pytest.raises(ServingError, match="no"):
        bench.together(rows(1), rows(2))
    bench.adder.error = KeyError("oops")
    with pytest.raises(ServingError) as caught:
        bench.call(rows(1))
    assert caught.value.code is Code.INTERNAL
    bench.adder.error = None
    assert bench.call(rows(1), only=["y"]).keys() == {"y"}
    bench.adder.drop_batch = True
    with pytest.raises(ServingError, match="can't be batched") as caught:
        bench.call(rows(1, 2))
    assert caught.value.code is Code.FAILED_PRECONDITION


def test_many_callers_each_get_their_own() -> None:
    bench = Bench(max_batch_size=8, timeout_seconds=0.001, threads=2)
    values = [rows(*range(number, number + number % 3 + 1)) for number in range(300)]
    for value, answer in zip(values, bench.together(*values), strict=True):
        assert answer["y"].tolist() == (value + 1).tolist()
    assert len(bench.adder.shapes) < 300


def test_batching_config() -> None:
    assert parse_batching_config("", 3) == BatchingOptions(threads=3)
    text = """max_batch_size { value: 8 } batch_timeout_micros { value: 2000 } max_enqueued_batches { value: 5 }
        num_batch_threads { value: 2 } allowed_batch_sizes: 4 allowed_batch_sizes: 8
        pad_variable_length_inputs: true thread_pool_name { value: 'p' }"""
    assert parse_batching_config(text, 3) == BatchingOptions(8, 0.002, 5, 2, (4, 8), pad=True)


@pytest.mark.parametrize(
    "text",
    [
        "max_batch_size: 8",
        "max_batch_size { value: 0 }",
        "max_batch_size { value: 8 } allowed_batch_sizes: 4",
        "max_batch_size { value: 4 } allowed_batch_sizes: 8 allowed_batch_sizes: 4",
        "max_batch_size { value: 4 } max_execution_batch_size { value: 8 }"
        " enable_large_batch_splitting { value: true }",
    ],
)
def test_unusable_batching_config(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_batching_config(text, 2)
