"""Events out: one JSON line each, written by a thread of its own so that training never waits for a reader."""

from __future__ import annotations

import contextlib
import os
import threading
from collections import deque
from typing import Any

from pydantic_core import PydanticSerializationError

from services.worker.protocol import (
    MAX_EVENT_BYTES,
    Failed,
    Finished,
    MetricsLogged,
    Noted,
    Progress,
    TrainingEvent,
    Warned,
)
from services.worker.training.failures import printable

MAX_QUEUED = 20_000
_CUT = " … (cut)"


class Emitter:
    """Thread-safe. A closed pipe is no error here: the lifeline tells when the supervisor is gone."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._queue: deque[tuple[TrainingEvent, bytes]] = deque()
        self._condition = threading.Condition()
        self._busy = False
        self._broken = False
        self._thread = threading.Thread(target=self._write_all, name="events", daemon=True)
        self._thread.start()

    def __call__(self, event: TrainingEvent) -> None:
        """Queue one event. Returns at once; with a stuck reader, progress and points are dropped first."""
        line = encode(event)
        with self._condition:
            if self._broken:
                return
            if len(self._queue) >= MAX_QUEUED:
                if isinstance(event, Progress | MetricsLogged):
                    return
                self._drop_unimportant()
            self._queue.append((event, line))
            self._condition.notify_all()

    def note(self, **facts: object) -> None:
        """Facts about the run."""
        self(Noted(data=facts))

    def warn(self, code: str, message: str) -> None:
        """Something a person should know that did not end the job."""
        print(f"warning: {message}", flush=True)  # noqa: T201 - fd 1 is the job's log
        self(Warned(code=code, message=message))

    def flush(self, timeout: float = 10.0) -> bool:
        """Wait until all is written; False if the reader did not take it in time."""
        with self._condition:
            return self._condition.wait_for(
                lambda: self._broken or (not self._queue and not self._busy), timeout
            )

    def _drop_unimportant(self) -> None:
        kept = [item for item in self._queue if not isinstance(item[0], Progress | MetricsLogged)]
        self._queue = deque(kept)

    def _write_all(self) -> None:
        while True:
            with self._condition:
                self._condition.wait_for(lambda: self._queue)
                lines = [line for _, line in self._queue]
                self._queue.clear()
                self._busy = True
            with contextlib.suppress(OSError):
                self._write(b"".join(lines))
            with self._condition:
                self._busy = False
                self._condition.notify_all()

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._descriptor, view[:65536]) :]
        except OSError:
            with self._condition:
                self._broken = True
                self._queue.clear()
            raise


def encode(event: TrainingEvent) -> bytes:
    """One line of at most ``MAX_EVENT_BYTES`` with its newline; what is too long is cut, never left out whole."""
    try:
        line = event.model_dump_json().encode() + b"\n"
    except PydanticSerializationError:  # lone surrogates: names of files that are not UTF-8, a user's message
        event = type(event).model_validate(_clean(event.model_dump()))
        line = event.model_dump_json().encode() + b"\n"
    if len(line) <= MAX_EVENT_BYTES:
        return line
    return _shrunk(event).model_dump_json().encode() + b"\n"


def _shrunk(event: TrainingEvent) -> TrainingEvent:
    if isinstance(event, Failed):
        return event.model_copy(
            update={
                "message": _cut(event.message, 4000),
                "hint": event.hint and _cut(event.hint, 2000),
                "detail": event.detail and _cut(event.detail, 4000),
            }
        )
    if isinstance(event, Warned):
        return event.model_copy(update={"message": _cut(event.message, 4000)})
    if isinstance(event, Finished):  # thousands of class names; the export's manifest has them all
        return event.model_copy(update={"classes": None})
    if isinstance(event, Noted):
        return Noted(data={key: value for key, value in event.data.items() if len(repr(value)) < 4000})
    if isinstance(event, Progress):
        return event.model_copy(update={"metrics": dict(list(event.metrics.items())[:50])})
    return event


def _clean(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict):
        return {_clean(key): _clean(item) for key, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list | tuple) else value


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[:limit] + _CUT
