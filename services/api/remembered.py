"""Answers of the store kept for a moment, so that the hot path does not wait for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, TypeVar

from anyio import to_thread

from shared.errors import ModelyardError, Unavailable

T = TypeVar("T")
KEPT = 1000


@dataclass(slots=True)
class _Known:
    value: Any
    at: float  # on the monotonic clock


class Remembered:
    """Belongs to one event loop.

    An answer is new for ``seconds``. For as long again it is still given, while a single task asks anew in the
    background; older ones are waited for. While the store does not answer, the last that is known goes on being given:
    predictions need not stop because labels can't be changed.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._known: dict[Hashable, _Known] = {}
        self._asking: dict[Hashable, asyncio.Task[Any]] = {}

    def at_hand(self, key: Hashable, ask: Callable[[], T]) -> T | None:
        """As ``get``, where nothing must be waited for; else None."""
        known = self._known.get(key)
        if known is None:
            return None
        age = time.monotonic() - known.at
        if age >= self._seconds:
            self._ask(key, ask)
            if age >= 2 * self._seconds:
                return None
        value: T = known.value
        return value

    async def get(self, key: Hashable, ask: Callable[[], T], *, within: float | None = None) -> T:
        """What ``ask``, run in a thread, answered lately, or answers now; its errors, if nothing is known.

        ``within``: an answer older than so many seconds will not do.
        """
        if within is None:
            found = self.at_hand(key, ask)
            if found is not None:
                return found
        else:
            known = self._known.get(key)
            if known is not None and time.monotonic() - known.at < within:
                value: T = known.value
                return value
        return await self._waited_for(self._ask(key, ask))

    def _ask(self, key: Hashable, ask: Callable[[], T]) -> asyncio.Task[T]:
        task = self._asking.get(key)
        if task is None:
            task = asyncio.create_task(self._asked(key, ask), name="remember")
            self._asking[key] = task
            task.add_done_callback(lambda done: self._over(key, done))
        return task

    async def _asked(self, key: Hashable, ask: Callable[[], T]) -> T:
        own = asyncio.current_task()
        try:
            value = await to_thread.run_sync(ask)
        except Unavailable:
            known = self._known.get(key)
            if known is None:
                raise
            value = known.value
        if self._asking.get(key) is own:  # else it was forgotten meanwhile, and may be out of date
            if len(self._known) >= KEPT:
                self._known.clear()
            self._known[key] = _Known(value, time.monotonic())
        return value

    def _over(self, key: Hashable, task: asyncio.Task[Any]) -> None:
        if self._asking.get(key) is task:
            del self._asking[key]
        if not task.cancelled():
            error = task.exception()
            if isinstance(error, ModelyardError):
                self._known.pop(key, None)  # gone for good: whoever asks next is told so

    async def _waited_for(self, task: asyncio.Task[T]) -> T:
        return await asyncio.shield(task)  # others may wait for it too

    def forget(self) -> None:
        """Ask anew from now on."""
        self._known.clear()
        self._asking.clear()

    async def aclose(self) -> None:
        """Wait for what is being asked."""
        await asyncio.gather(*self._asking.values(), return_exceptions=True)
