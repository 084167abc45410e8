"""Watches one training program from its start to its end: events in, signals out. Knows no store and no queue."""

from __future__ import annotations

import logging
import os
import selectors
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from pydantic import ValidationError

from services.worker.protocol import EVENT, MAX_EVENT_BYTES, Failed, Finished, Stopped, TrainingEvent

TICK_SECONDS = 0.1
LINGER_SECONDS = 10.0  # from the last event to the process' end
log = logging.getLogger(__name__)


class Program(Protocol):
    """What can be watched: a trainer, or a cluster of them. ``events`` is the readable end of its event pipe."""

    events: int

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""

    def terminate(self) -> None:
        """Ask for a checkpoint and an end."""

    def kill(self) -> None:
        """End it and all it started, now."""


class StopReason(Enum):
    """Why a supervisor ends a program before it is done."""

    CANCEL = "cancel"  # somebody asked; a checkpoint is welcome
    DEADLINE = "deadline"  # it has run for as long as it may; a checkpoint is welcome
    PRUNED = "pruned"  # its study wants no more of it
    SHUTDOWN = "shutdown"  # the worker is told to stop; a checkpoint is needed
    LOST = "lost"  # the job is somebody else's now; nothing it writes counts any more


@dataclass(frozen=True, slots=True)
class Ending:
    """How a program ended: its last word if it had one, its exit code, and whether we had asked it to end."""

    last_word: Finished | Failed | Stopped | None
    exit_code: int
    stopped_for: StopReason | None


class Lines:
    """Splits a pipe's bytes into lines; a line over the limit is dropped, not grown."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        self._buffer += data
        *lines, rest = self._buffer.split(b"\n")
        self._buffer = bytearray(rest if len(rest) <= 4 * MAX_EVENT_BYTES else b"")
        return [bytes(line) for line in lines if line]


def watch(
    trainer: Program,
    *,
    on_event: Callable[[TrainingEvent], None],
    on_tick: Callable[[], None],
    stop_reason: Callable[[], StopReason | None],
    grace_seconds: float,
) -> Ending:
    """Read events until the program has ended, and see to it that it ends when it must.

    Args:
        trainer: a program just started.
        on_event: called for each event, in order, on this thread.
        on_tick: called at least every 0.1 s, for batched writes.
        stop_reason: asked every tick; once it answers, the program gets SIGTERM, and SIGKILL when ``grace_seconds``
            have passed; for ``LOST`` it gets SIGKILL at once.
        grace_seconds: time for a last checkpoint.
    """
    watched = _Watch(trainer, on_event, stop_reason, grace_seconds)
    with selectors.DefaultSelector() as selector:
        os.set_blocking(trainer.events, False)
        selector.register(trainer.events, selectors.EVENT_READ)
        while True:
            if watched.pipe_open:
                selector.select(TICK_SECONDS)
                if watched.read_to_end():
                    selector.unregister(trainer.events)
            else:
                time.sleep(TICK_SECONDS / 5)
            on_tick()
            exit_code = trainer.poll()
            if exit_code is not None and watched.drained():
                return Ending(watched.last_word, exit_code, watched.reason)
            watched.stop_if_asked()
            watched.kill_if_overdue()


class _Watch:
    """The state of one watch."""

    def __init__(
        self,
        trainer: Program,
        on_event: Callable[[TrainingEvent], None],
        stop_reason: Callable[[], StopReason | None],
        grace_seconds: float,
    ) -> None:
        self.trainer = trainer
        self.pipe_open = True
        self.last_word: Finished | Failed | Stopped | None = None
        self.reason: StopReason | None = None
        self._on_event = on_event
        self._stop_reason = stop_reason
        self._grace = grace_seconds
        self._lines = Lines()
        self._idle = False
        self._deadline: float | None = None

    def read_to_end(self) -> bool:
        """Take what is in the pipe; True when nothing more can come."""
        data = _read(self.trainer.events)
        self._idle = data is None
        if data == b"":
            self.pipe_open = False
            self._linger()
        for line in self._lines.feed(data or b""):
            event = _parsed(line)
            if event is None:
                continue
            if isinstance(event, Finished | Failed | Stopped):
                self.last_word = event
                self._linger()
            self._on_event(event)
        return not self.pipe_open

    def drained(self) -> bool:
        """Called after the process' end: whether all it said has been read. A stray child of its may hold the pipe
        open for ever, so an empty pipe is as good as a closed one.
        """
        if self.pipe_open:
            self.read_to_end()  # what it said between the last look and its end
        if self.pipe_open and self._idle:
            self.trainer.kill()
            return True
        return not self.pipe_open

    def stop_if_asked(self) -> None:
        """Begin the end when there is a reason, once. A program that has said its last word is left to end."""
        if self.reason is not None or self.last_word is not None:
            return
        self.reason = self._stop_reason()
        if self.reason is None:
            return
        self._deadline = time.monotonic() + self._grace
        if self.reason is StopReason.LOST:
            self.trainer.kill()
        else:
            self.trainer.terminate()

    def kill_if_overdue(self) -> None:
        """The grace period is a promise to the person who asked, not to the program."""
        if self._deadline is not None and time.monotonic() > self._deadline:
            self.trainer.kill()
            self._deadline = time.monotonic() + LINGER_SECONDS

    def _linger(self) -> None:
        if self._deadline is None:
            self._deadline = time.monotonic() + LINGER_SECONDS


def _read(descriptor: int) -> bytes | None:
    """Bytes; empty at end of file; None when there is nothing now."""
    try:
        return os.read(descriptor, 1 << 16)
    except BlockingIOError:
        return None


def _parsed(line: bytes) -> TrainingEvent | None:
    try:
        return EVENT.validate_json(line)
    except ValidationError as error:
        log.warning(
            "an event that can't be read was dropped: %s ... (%s)", line[:200], error.errors()[0]["msg"]
        )
        return None
