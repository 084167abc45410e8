"""Requests that arrive together run through the graph together.

As TensorFlow Serving's batching, with its parameters and limits: requests of one signature of one version wait in
a queue until a batch is full or its first request has waited long enough; a pool of threads runs the batches
of all queues. One thing is better: requests of unequal inner shapes go into batches of their own, where
TensorFlow Serving fails all requests of such a batch.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from services.serving.errors import Code, ServingError, invalid_argument
from services.serving.signature import Array, Servable, Signature, WrappedServable

_numbers = itertools.count()


@dataclass(frozen=True)
class BatchingOptions:
    """The fields of TensorFlow Serving's BatchingParameters."""

    max_batch_size: int = 1000
    timeout_seconds: float = 0.0
    max_enqueued_batches: int = 10
    threads: int = 1
    allowed_sizes: tuple[int, ...] = ()  # a batch is filled up to the next of these
    pad: bool = False  # requests of unequal lengths share a batch, the shorter ones padded
    largest_run: int = 0  # rows in one call, where requests may be larger and are split; 0: as max_batch_size

    @property
    def run_limit(self) -> int:
        """The most rows of one call."""
        return self.largest_run or self.max_batch_size


@dataclass
class _Task:
    """One request in a queue. ``started`` and ``cancelled`` are guarded by the scheduler's lock."""

    inputs: Mapping[str, Array]
    size: int
    deadline: float  # monotonic
    done: threading.Event = field(default_factory=threading.Event)
    started: bool = False
    cancelled: bool = False
    outputs: Mapping[str, Array] = field(default_factory=dict)
    error: ServingError | None = None


@dataclass
class _Batch:
    run: Callable[[list[_Task]], None]
    opened: float
    options: BatchingOptions
    tasks: list[_Task] = field(default_factory=list)
    size: int = 0


class Scheduler:
    """The queues of all versions, and the threads that run their batches. Safe to use from many threads."""

    def __init__(self, options: BatchingOptions) -> None:
        self.options = options
        self._changed = threading.Condition()
        self._queues: dict[Hashable, deque[_Batch]] = {}
        for number in range(options.threads):
            threading.Thread(target=self._work, name=f"batch-{number}", daemon=True).start()

    def submit(
        self, key: Hashable, task: _Task, execute: Callable[[list[_Task]], None], options: BatchingOptions
    ) -> None:
        """Put ``task`` in the queue of ``key``, whose limits are those of ``options``.

        Raises:
            ServingError: UNAVAILABLE if the queue is full.
        """
        with self._changed:
            queue = self._queues.setdefault(key, deque())
            if not queue or queue[-1].size + task.size > options.run_limit:
                if len(queue) >= options.max_enqueued_batches:
                    raise ServingError(
                        Code.UNAVAILABLE,
                        "The batch scheduling queue to which this task was submitted is full",
                    )
                queue.append(_Batch(execute, time.monotonic(), options))
            queue[-1].tasks.append(task)
            queue[-1].size += task.size
            self._changed.notify()

    def wait(self, task: _Task) -> None:
        """Until the batch of ``task`` has run.

        Raises:
            ServingError: DEADLINE_EXCEEDED, or the batch's own error.
        """
        left = task.deadline - time.monotonic()
        if not task.done.wait(None if math.isinf(left) else max(0.0, left)):
            with self._changed:
                task.cancelled = not task.started
            # A batch that runs uses the version's graph, so the version must not be given back before it ends.
            if not task.cancelled:
                task.done.wait()
            raise ServingError(Code.DEADLINE_EXCEEDED, "Timed out while waiting in or for a batch")
        if task.error is not None:
            raise task.error

    def _work(self) -> None:
        while True:
            with self._changed:
                while (batch := self._take()) is None:
                    self._changed.wait(self._until_next())
                tasks = [task for task in batch.tasks if not task.cancelled]
                for task in tasks:
                    task.started = True
            try:
                if tasks:
                    batch.run(tasks)
            except Exception as error:
                wrapped = (
                    error
                    if isinstance(error, ServingError)
                    else ServingError(Code.INTERNAL, f"{type(error).__name__}: {error}")
                )
                for task in tasks:
                    task.error = wrapped
            for task in tasks:
                task.done.set()

    def _take(self) -> _Batch | None:
        """Out of the queues, the batch that is ready and has waited longest."""
        now = time.monotonic()
        ready = [
            (queue[0].opened, number, key)
            for number, (key, queue) in enumerate(self._queues.items())
            if len(queue) > 1 or queue[0].size >= queue[0].options.run_limit or self._due(queue[0]) <= now
        ]
        if not ready:
            return None
        key = min(ready, key=lambda one: one[:2])[2]
        queue = self._queues[key]
        batch = queue.popleft()
        if not queue:
            del self._queues[key]
        else:
            self._changed.notify()
        return batch

    def _until_next(self) -> float | None:
        due = [self._due(queue[0]) for queue in self._queues.values()]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _due(self, batch: _Batch) -> float:
        return batch.opened + batch.options.timeout_seconds


class BatchedServable(WrappedServable):
    """A ``Servable`` whose calls run in batches. ``limit``: seconds for a call that says nothing of its own.

    ``options``: the version's own; its threads are the scheduler's all the same.
    """

    def __init__(
        self, inner: Servable, scheduler: Scheduler, limit: float, options: BatchingOptions | None = None
    ) -> None:
        self._options = options or scheduler.options
        super().__init__(inner)
        self._scheduler = scheduler
        self._limit = limit
        self._number = next(_numbers)

    def run(
        self,
        signature: Signature,
        inputs: Mapping[str, Array],
        *,
        timeout: float | None = None,
        only: Sequence[str] = (),
    ) -> dict[str, Array]:
        """See ``Servable.run``."""
        size = rows_of(inputs)
        options = self._options
        if size > options.max_batch_size:
            raise invalid_argument(
                f"Task size {size} is larger than maximum input batch size {options.max_batch_size}"
            )
        deadline = time.monotonic() + (self._limit if timeout is None else timeout)
        like = tuple(array.ndim if options.pad else array.shape[1:] for array in inputs.values())
        tasks = [
            _Task(
                {alias: array[at : at + options.run_limit] for alias, array in inputs.items()}, part, deadline
            )
            for at, part in _parts(size, options.run_limit)
        ]
        submitted: list[_Task] = []
        try:
            for task in tasks:
                self._scheduler.submit(
                    (self._number, signature.name, like),
                    task,
                    lambda batch: self._execute(signature, batch),
                    options,
                )
                submitted.append(task)
        finally:
            # Also when a later part was refused: nothing of a request may run on when the request is over.
            errors = [error for task in submitted if (error := self._outcome(task)) is not None]
        if errors:
            raise errors[0]
        names = only or tuple(signature.outputs)
        if len(tasks) == 1:
            return {alias: tasks[0].outputs[alias] for alias in names}
        return {alias: np.concatenate([task.outputs[alias] for task in tasks]) for alias in names}

    def _outcome(self, task: _Task) -> ServingError | None:
        try:
            self._scheduler.wait(task)
        except ServingError as error:
            return error
        return None

    def _execute(self, signature: Signature, tasks: list[_Task]) -> None:
        sizes = [task.size for task in tasks]
        total = sum(sizes)
        # of no rows there is none to fill up with
        filled = next((size for size in self._options.allowed_sizes if size >= total), total) if total else 0
        whole = {
            alias: joined([task.inputs[alias] for task in tasks], filled - total)
            for alias in signature.inputs
        }
        left = max(task.deadline for task in tasks) - time.monotonic()
        outputs = self.inner.run(signature, whole, timeout=max(left, 0.001))
        for alias, array in outputs.items():
            if array.ndim == 0 or array.shape[0] != filled:
                raise ServingError(
                    Code.FAILED_PRECONDITION,
                    f"Batched output tensor {alias} has shape {list(array.shape)}: its 0th dimension is not the"
                    f" batch's size, {filled}. This signature can't be batched",
                )
        parts = {alias: np.split(array[:total], np.cumsum(sizes)[:-1]) for alias, array in outputs.items()}
        for index, task in enumerate(tasks):
            task.outputs = {alias: arrays[index] for alias, arrays in parts.items()}

    def close(self) -> None:
        """Nothing waits in a queue any more: each request holds its version until it has its answer."""
        self.inner.close()


def _parts(size: int, limit: int) -> list[tuple[int, int]]:
    """Where the parts of a request begin, and their sizes; a request of no rows is one part."""
    return [(at, min(limit, size - at)) for at in range(0, size, limit)] or [(0, size)]


def rows_of(inputs: Mapping[str, Array]) -> int:
    if any(array.ndim == 0 for array in inputs.values()):
        raise invalid_argument("Batching Run() input tensors must have at least one dimension")
    sizes = {array.shape[0] for array in inputs.values()}
    if len(sizes) != 1:
        raise invalid_argument("Batching Run() input tensors must have equal 0th-dimension size")
    return int(sizes.pop())


def joined(arrays: Sequence[Array], more: int) -> Array:
    """All rows, the last one ``more`` times again; shorter rows are padded with their array's first value."""
    longest = tuple(max(sizes) for sizes in zip(*(array.shape[1:] for array in arrays), strict=True))
    padded = [array if array.shape[1:] == longest else _padded(array, longest) for array in arrays]
    whole = padded[0] if len(padded) == 1 else np.concatenate(padded)
    return np.concatenate([whole, np.repeat(whole[-1:], more, axis=0)]) if more and len(whole) else whole


def _padded(array: Array, shape: tuple[int, ...]) -> Array:
    filler: Any = array.flat[0] if array.size else (b"" if array.dtype == np.dtype(object) else 0)
    whole = np.full((array.shape[0], *shape), filler, array.dtype)
    whole[tuple(slice(size) for size in array.shape)] = array
    return whole
