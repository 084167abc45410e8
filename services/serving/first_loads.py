"""The wait for the models that are listed at the start.

TensorFlow Serving opens its ports once every listed model has a version, so its clients take an open port for a model
that answers. Here the ports are open at once and no model waits for another one; requests for a model that is still
being loaded for the first time wait for it instead.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Collection

_PAUSE_SECONDS = 0.02
_LONGEST_SECONDS = 300.0  # a load that hangs must not keep everything from answering


class FirstLoads:
    """Over, for a model, once each of its versions has been loaded or has failed; for good once that is so for all.

    ``has_looked`` says whether the models on disk have been looked for, ``pending`` which ones are still being loaded.
    Safe to use from many threads.
    """

    def __init__(self, has_looked: Callable[[], bool], pending: Callable[[], Collection[str]]) -> None:
        self._has_looked = has_looked
        self._pending = pending
        self._all = threading.Event()
        self._end = time.monotonic() + _LONGEST_SECONDS

    def over(self, model: str | None = None) -> bool:
        """Whether ``model`` (None: every one) has had its chance."""
        if self._all.is_set():
            return True
        pending = self._pending() if self._has_looked() else None
        if time.monotonic() > self._end or (pending is not None and not pending):
            self._all.set()
            return True
        return pending is not None and model is not None and model not in pending

    def stop(self) -> None:
        """Let those go on who wait: the server ends."""
        self._all.set()

    async def wait(self, model: str) -> None:
        """Return once it is over for ``model``."""
        while not self.over(model):  # noqa: ASYNC110 - threads that know no event loop end it
            await asyncio.sleep(_PAUSE_SECONDS)

    def wait_for_all(self) -> None:
        """Return once it is over for every model."""
        while not self.over():
            time.sleep(_PAUSE_SECONDS)
