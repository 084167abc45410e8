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

    Programs that train in step (``by_agreement``) must also stop at the same step: within ``deferred`` the signal is
    only a wish, until all have agreed on it.

    Attributes:
        requested: stop at the next step boundary.
        wished: the signal came.
    """

    def __init__(self) -> None:
        self.requested = False
        self.wished = False
        self._raising = True
        self._alone = True

    def install(self) -> None:
        """Take over SIGTERM. Main thread only."""
        signal.signal(signal.SIGTERM, self._on_signal)

    def by_agreement(self, *, follows: bool) -> None:
        """From now on a signal asks for what ``agreed`` decides; where this program ``follows``, at any stage."""
        self._alone = False
        if follows:
            self._raising = False

    def agreed(self, stop: bool) -> None:
        """What all have agreed on."""
        self.requested = stop

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self.wished = True
        if self._alone:
            self.requested = True
        if self._raising:
            raise StopRequested

    def check(self) -> None:
        """Raise ``StopRequested`` if a signal came, for one that was swallowed in a callback of C code."""
        if self.requested or (self.wished and self._raising):
            raise StopRequested

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Within, the signal only sets the flag."""
        before, self._raising = self._raising, False
        try:
            yield
        finally:
            self._raising = before
