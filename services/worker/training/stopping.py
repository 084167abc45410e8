"""SIGTERM: a wish to stop, honoured at the next safe point."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class StopRequested(BaseException):
    """Raised where stopping at once is safe. Not an ``Exception``: no library on the way may swallow it."""


class StopSignal:
    """The flag, and whether the signal may also interrupt what is going on.

    Preparing data, building, evaluating and exporting leave nothing half done that a later attempt would trust, so
    the signal raises ``StopRequested`` there, even inside a long download. Training looks at ``requested`` between
    chunks of steps instead, for it has a checkpoint to write.
    """

    def __init__(self) -> None:
        self.requested = False
        self._raising = True

    def install(self) -> None:
        """Take over SIGTERM. Main thread only."""
        signal.signal(signal.SIGTERM, self._on_signal)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if self._raising:
            raise StopRequested

    def check(self) -> None:
        """Raise ``StopRequested`` if a signal came, for one that was swallowed in a callback of C code."""
        if self.requested:
            raise StopRequested

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, the signal only sets the flag."""
        before, self._raising = self._raising, False
        try:
            yield
        finally:
            self._raising = before
