"""TensorFlow's profiler around chosen steps, for TensorBoard's profile page."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf


class Profile:
    """Steps ``first`` to ``last``, counted from 1 over all epochs; each is a step of its own on the page.

    An attempt that goes on from the middle of them profiles those that are left. None: no steps at all.
    """

    def __init__(self, folder: Path, steps: tuple[int, int] | None) -> None:
        self._folder = folder
        self._first, self._last = steps or (0, 0)
        self._running = False
        self.done = steps is None

    def steps_to_next(self, total: int) -> int | None:
        """Steps from ``total`` to a boundary that matters; within the profile that is each."""
        if self.done or total >= self._last:
            return None
        return 1 if total + 1 >= self._first else self._first - 1 - total

    @contextlib.contextmanager
    def around(self, total: int) -> Iterator[None]:
        """The steps after ``total`` run within."""
        if self.done or not self._first <= total + 1 <= self._last:
            yield
            return
        if not self._running:
            options = tf.profiler.experimental.ProfilerOptions(python_tracer_level=0)
            tf.profiler.experimental.start(str(self._folder), options)
            self._running = True
        with tf.profiler.experimental.Trace("train", step_num=total + 1, _r=1):
            yield
        if total + 1 >= self._last:
            self.stop()

    def stop(self) -> None:
        """Write what was seen. Training may end before the last step does."""
        if self._running:
            self._running = False
            self.done = True
            tf.profiler.experimental.stop()
