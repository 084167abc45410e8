"""What a free slot does when it is woken: run the next job, see that nobody is left waiting, sleep again.

Wake-ups are messages, of which there is one for each job that may be claimed. One is lost to its job when it comes
while a project's limit holds the job back, or when it comes to a worker that takes no jobs. So whoever ends a job looks
for the next one itself unless messages wait, wakes workers of other queues for a project that had no room, and a worker
that stops or drains passes its wake-up on. The sweeper wakes what was forgotten all the same.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from typing import Protocol

from services.worker.gang_seat import Seats
from services.worker.lifecycle import Attempts
from shared.errors import Unavailable
from shared.job_queue import JobQueue
from shared.jobs import Job
from shared.specs.queueing import CPU_QUEUE, DEFAULT_QUEUE, GPU_QUEUE

log = logging.getLogger(__name__)


class Listening(Protocol):
    """Whatever brings the messages."""

    def listen(self, wanted: bool) -> None: ...


class Slots:
    """The slots of one worker. Thread-safe: each slot is a thread that calls ``wake``."""

    def __init__(self, attempts: Attempts, queue: JobQueue, seats: Seats | None = None) -> None:
        self.draining = threading.Event()
        self.woken_at = 0.0  # by the monotonic clock
        self._attempts = attempts
        self._queue = queue
        self._seats = seats
        self._ears: Listening | None = None

    def wake(self, job_id: str) -> None:
        """Run jobs until there is none that this slot should run. ``job_id`` is on whose account it was woken.

        Raises:
            Unavailable: the store does not answer.
        """
        self.woken_at = time.monotonic()
        if not self._attempts.stopping.is_set():
            self._attempts.advance_if_study(job_id)
        while True:
            if self._seats is not None:  # a gang that waits holds slots: it comes first
                self._seats.serve(instead_of=job_id)
            job = self._attempts.run_next()
            if job is None:
                if self._takes_none():
                    self._pass_on(job_id)
                return
            leaving = self._takes_none()
            self._wake_for_limits(job, here_too=leaving)
            if leaving or self._messages_wait():
                return

    def listen_through(self, ears: Listening) -> None:
        """Tell what brings the messages, as soon as it does."""
        self._ears = ears
        ears.listen(not self.draining.is_set())

    def note_draining(self, value: str | None) -> None:
        """Act on what the store says of this worker: ``finish``, ``now``, or None for an ordinary life."""
        if value is None:
            self._attempts.giving_back.clear()
        elif value == "now":
            self._attempts.giving_back.set()
        if (value is not None) == self.draining.is_set():
            return
        log.warning("no more jobs are taken: draining" if value else "jobs are taken again")
        (self.draining.set if value else self.draining.clear)()
        if self._ears is not None:
            self._ears.listen(value is None)

    def _takes_none(self) -> bool:
        if self._attempts.stopping.is_set():
            return True
        # the store knows first: the heartbeat that tells this process may be seconds away
        self.note_draining(self._attempts.store.workers.draining(self._attempts.worker_id))
        return self.draining.is_set()

    def _pass_on(self, job_id: str) -> None:
        waiting = set(self._attempts.store.claims.waiting_queues())
        self._send({name: job_id for name in self._attempts.queues if name in waiting})

    def _wake_for_limits(self, job: Job, *, here_too: bool) -> None:
        held_back = self._attempts.store.projects.held_back(job.project)
        own = () if here_too else self._attempts.queues
        self._send({name: job_id for name, job_id in held_back.items() if name not in own})

    def _messages_wait(self) -> bool:
        try:
            return self._queue.depth(*self._attempts.queues) > 0
        except Unavailable:
            return False

    def _send(self, job_ids: dict[str, str]) -> None:
        for queue, job_id in job_ids.items():
            try:
                self._queue.send(job_id, queue)
            except Unavailable as error:
                log.warning("nobody was woken for queue %s: %s", queue, error.message)


def served_queues(named: tuple[str, ...]) -> tuple[str, ...]:
    """The queues that a worker serves: those its operator named; or ``default`` and ``cpu``, and ``gpu`` where the
    driver shows a GPU that CUDA_VISIBLE_DEVICES does not hide.
    """
    if named:
        return tuple(dict.fromkeys(named))
    return (DEFAULT_QUEUE, CPU_QUEUE, GPU_QUEUE) if _sees_gpus() else (DEFAULT_QUEUE, CPU_QUEUE)


def _sees_gpus() -> bool:
    if os.environ.get("CUDA_VISIBLE_DEVICES", "all").strip() in ("", "-1"):
        return False
    import pynvml

    try:
        pynvml.nvmlInit()
        try:
            return bool(pynvml.nvmlDeviceGetCount())
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return False  # no driver, no GPU
