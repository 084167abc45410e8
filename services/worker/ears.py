"""Makes a running Celery consumer listen to this worker's queues, or to none of them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

from shared.job_queue import broker_queue


class Ears:
    """A draining worker must not take messages: each is a wake-up that another worker would act on."""

    def __init__(self, consumer: Any, queues: Sequence[str]) -> None:
        self._consumer = consumer
        self._queues = [broker_queue(name) for name in queues]
        self._lock = threading.Lock()
        self._listening = True

    def listen(self, wanted: bool) -> None:
        """Begin or end listening; the consumer's own thread does it, at its next turn. Thread-safe."""
        with self._lock:
            if wanted is self._listening:
                return
            self._listening = wanted
        change = self._consumer.add_task_queue if wanted else self._consumer.cancel_task_queue
        for name in self._queues:
            self._consumer.call_soon(change, name)
