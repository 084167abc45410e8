"""Answers of the store kept for a moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from anyio import to_thread

T = TypeVar("T")
KEPT = 1000


class Remembered:
    """Belongs to one event loop."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._known: dict[Hashable, tuple[float, Any]] = {}

    async def get(self, key: Hashable, ask: Callable[[], T]) -> T:
        """What ``ask``, run in a thread, answered less than a moment ago, or answers now."""
        now = time.monotonic()
        found = self._known.get(key)
        if found is not None and found[0] > now:
            value: T = found[1]
            return value
        value = await to_thread.run_sync(ask)
        if len(self._known) >= KEPT:
            self._known.clear()
        self._known[key] = (now + self._seconds, value)
        return value

    def forget(self) -> None:
        """Ask anew from now on."""
        self._known.clear()
