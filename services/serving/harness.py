"""One version of one model, and the table that requests look it up in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType

from services.serving.errors import ServingError
from services.serving.integrity import Fingerprint
from services.serving.policy import State
from services.serving.signature import Servable


class Harness:
    """A version with its state, its servable, and the number of requests that are using it.

    ``state``, ``wanted`` and the load's book-keeping belong to the manager (under its lock); the count is guarded
    by a lock of its own, which nothing holds for longer than an addition. As a context manager it counts
    out the request that ``acquire`` counted in.
    """

    def __init__(self, model: str, version: int, path: str) -> None:
        self.model = model
        self.version = version
        self.path = path
        self.state = State.START
        self.wanted = True
        self.error: ServingError | None = None
        self.attempts = 0
        self.next_attempt: float | None = None  # monotonic seconds; None while an attempt runs or none is due
        self.tried: Fingerprint = ()  # the folder as the last failed attempt found it
        self._servable: Servable | None = None
        self._users = 0
        self._closing = False
        self._on_idle: Callable[[], None] | None = None
        self._count = threading.Lock()

    @property
    def retired(self) -> bool:
        """Ended, and not wanted since: if the version is wanted again, it starts anew."""
        return self.state is State.END and not self.wanted

    def open(self, servable: Servable) -> None:
        """From now on requests may use it."""
        self._servable = servable

    @property
    def servable(self) -> Servable:
        """The loaded model; only to be used between ``acquire`` and ``release``."""
        assert self._servable is not None  # noqa: S101 - acquire() gives out open harnesses only
        return self._servable

    def acquire(self) -> bool:
        """Count a request in; False if the version is leaving."""
        with self._count:
            if self._closing or self._servable is None:
                return False
            self._users += 1
            return True

    def release(self) -> None:
        """Count a request out; the last one of a leaving version sets off its unloading."""
        with self._count:
            self._users -= 1
            idle = self._on_idle if self._closing and self._users == 0 else None
        if idle is not None:
            idle()

    def close_when_idle(self, on_idle: Callable[[], None]) -> None:
        """Take no more requests, and call ``on_idle`` once when the last one has ended (perhaps at once)."""
        with self._count:
            self._closing = True
            self._on_idle = on_idle
            idle = self._users == 0
        if idle:
            on_idle()

    def detach(self) -> Servable:
        """Hand over the servable for closing; nobody uses it any more."""
        servable, self._servable = self.servable, None
        return servable

    def __enter__(self) -> Harness:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


@dataclass(frozen=True)
class Table:
    """What requests for one model can be answered with, at one moment. Never changed, only replaced."""

    versions: Mapping[int, Harness] = field(default_factory=dict)  # AVAILABLE ones
    latest: int | None = None
    labels: Mapping[str, int] = field(default_factory=dict)
