"""Batches without parameters: what is waiting while calls are running goes into one call when one of them ends.

A request that finds a free place runs at once, on its own thread: nobody ever waits for company. As many calls of one
signature run at a time as there are cores; beyond that requests gather, and whoever leads the next call takes all of
them.

Only signatures whose rows don't influence each other are batched: their declared shapes must be batches, their graph
must keep no state, and on made-up rows one call must answer as one call per row does.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from services.serving.batching import joined, rows_of
from services.serving.errors import Code, ServingError
from services.serving.signature import Array, Servable, Signature, TensorSpec, WrappedServable, numpy_type

log = logging.getLogger("serving.adaptive")

_MOST_ROWS = 64  # of one call that serves several requests
_TRIAL_ROWS = 3
_MOST_TRIAL_ELEMENTS = 2**20


@dataclass
class _Task:
    """A waiting request. ``batch`` is what it shall run, itself among them; set, like the results, before ``wake``."""

    inputs: Mapping[str, Array]
    rows: int
    deadline: float
    wake: threading.Event = field(default_factory=threading.Event)
    batch: list[_Task] | None = None
    outputs: Mapping[str, Array] | None = None
    error: Exception | None = None


@dataclass
class _Queue:
    """The calls of one signature with inputs of one inner shape."""

    running: int = 0
    waiting: deque[_Task] = field(default_factory=deque)


class AdaptiveServable(WrappedServable):
    """A ``Servable`` whose calls are batched under load. ``limit``: seconds for a call that says nothing of its own."""

    def __init__(self, inner: Servable, batchable: frozenset[str], *, places: int, limit: float) -> None:
        super().__init__(inner)
        self._batchable = batchable
        self._places = places
        self._limit = limit
        self._lock = threading.Lock()
        self._queues: dict[Hashable, _Queue] = {}

    def run(
        self,
        signature: Signature,
        inputs: Mapping[str, Array],
        *,
        timeout: float | None = None,
        only: Sequence[str] = (),
    ) -> dict[str, Array]:
        """See ``Servable.run``."""
        if signature.name not in self._batchable or not _is_small_batch(inputs):
            return self.inner.run(signature, inputs, timeout=timeout, only=only)
        key = (signature.name, *(array.shape[1:] for array in inputs.values()))
        task: _Task | None = None
        with self._lock:
            queue = self._queues.setdefault(key, _Queue())
            if queue.running < self._places:
                queue.running += 1
            else:
                deadline = time.monotonic() + (self._limit if timeout is None else timeout)
                task = _Task(inputs, rows_of(inputs), deadline)
                queue.waiting.append(task)
        if task is None:
            try:
                return self.inner.run(signature, inputs, timeout=timeout, only=only)
            finally:
                self._pass_on(key, queue)
        outputs = self._wait(task, signature, key, queue)
        return {alias: outputs[alias] for alias in only or signature.outputs}

    def _wait(self, task: _Task, signature: Signature, key: Hashable, queue: _Queue) -> Mapping[str, Array]:
        left = task.deadline - time.monotonic()
        if not task.wake.wait(None if math.isinf(left) else max(0.0, left)):
            with self._lock:
                given_up = task in queue.waiting
                if given_up:
                    queue.waiting.remove(task)
            if given_up:
                raise ServingError(Code.DEADLINE_EXCEEDED, "Timed out while waiting for a batch")
            task.wake.wait()  # a call that has begun uses the version, which must not be given back before it ends
        if task.batch is not None:
            try:
                self._lead(task, signature)
            finally:
                self._pass_on(key, queue)
        if task.error is not None:
            raise task.error
        assert task.outputs is not None  # noqa: S101 - the leader sets one or the other
        return task.outputs

    def _lead(self, leader: _Task, signature: Signature) -> None:
        batch = leader.batch or [leader]
        try:
            self._run_together(batch, signature)
        except Exception as error:
            if len(batch) == 1:
                leader.error = error
            else:
                self._run_alone(batch, signature)  # one bad request must not spoil the others
        for task in batch:
            if task is not leader:
                task.wake.set()

    def _run_together(self, batch: list[_Task], signature: Signature) -> None:
        whole = {alias: joined([task.inputs[alias] for task in batch], 0) for alias in signature.inputs}
        left = max(task.deadline for task in batch) - time.monotonic()
        outputs = self.inner.run(signature, whole, timeout=max(left, 0.001))
        ends = np.cumsum([task.rows for task in batch])
        if any(array.ndim == 0 or array.shape[0] != ends[-1] for array in outputs.values()):
            raise ServingError(Code.INTERNAL, "an output is no batch")
        parts = {alias: np.split(array, ends[:-1]) for alias, array in outputs.items()}
        for index, task in enumerate(batch):
            task.outputs = {alias: arrays[index] for alias, arrays in parts.items()}

    def _run_alone(self, batch: list[_Task], signature: Signature) -> None:
        for task in batch:
            try:
                left = max(0.001, task.deadline - time.monotonic())
                task.outputs = self.inner.run(signature, task.inputs, timeout=left)
            except Exception as error:
                task.error = error

    def _pass_on(self, key: Hashable, queue: _Queue) -> None:
        """Give the place of a call that has ended to those who wait, if any do."""
        batch: list[_Task] = []
        rows = 0
        with self._lock:
            while queue.waiting and (not batch or rows + queue.waiting[0].rows <= _MOST_ROWS):
                batch.append(queue.waiting.popleft())
                rows += batch[-1].rows
            if not batch:
                queue.running -= 1
                if not queue.running:
                    self._queues.pop(key, None)
                return
        batch[0].batch = batch
        batch[0].wake.set()

    def close(self) -> None:
        """Nothing waits any more: each request holds its version until it has its answer."""
        self.inner.close()


def batchable(servable: Servable) -> frozenset[str]:
    """The signatures of a version that keeps no state, whose rows don't influence each other."""
    return frozenset(
        one.name for one in servable.signatures.values() if _is_batch(one) and _agrees(servable, one)
    )


def _is_small_batch(inputs: Mapping[str, Array]) -> bool:
    sizes = {array.shape[0] if array.ndim else 0 for array in inputs.values()}
    return len(sizes) == 1 and 0 < sizes.pop() <= _MOST_ROWS // 2


def _is_batch(signature: Signature) -> bool:
    specs = [*signature.inputs.values(), *signature.outputs.values()]
    return bool(signature.inputs and signature.outputs) and all(
        spec.shape and spec.shape[0] == -1 and spec.name for spec in specs
    )


def _agrees(servable: Servable, signature: Signature) -> bool:
    random = np.random.default_rng(0)
    inputs = {alias: _values(spec, random) for alias, spec in signature.inputs.items()}
    if any(array is None for array in inputs.values()):
        return False
    rows = {alias: array for alias, array in inputs.items() if array is not None}
    try:
        together = servable.run(signature, rows)
        apart = [
            servable.run(signature, {alias: array[at : at + 1] for alias, array in rows.items()})
            for at in range(_TRIAL_ROWS)
        ]
    except ServingError:
        return False  # the made-up values may be at fault
    for alias, array in together.items():
        parts = [one[alias] for one in apart]
        if array.shape[:1] != (_TRIAL_ROWS,) or any(part.shape != (1, *array.shape[1:]) for part in parts):
            return False
        alone = np.concatenate(parts)
        same = np.allclose(array, alone, 1e-4, 1e-5) if array.dtype.kind == "f" else (array == alone).all()
        if not same:
            return False
    return True


def _values(spec: TensorSpec, random: np.random.Generator) -> Array | None:
    dtype = numpy_type(spec.dtype)
    shape = (_TRIAL_ROWS, *(2 if size < 0 else size for size in (spec.shape or ())[1:]))
    if dtype is None or dtype.kind not in "fiub" or math.prod(shape) > _MOST_TRIAL_ELEMENTS:
        return None
    return (random.uniform(0, 1, shape) if dtype.kind == "f" else random.integers(0, 2, shape)).astype(dtype)
