"""Finds jobs that no worker would ever take up otherwise: lost leases, ids never sent, messages the broker lost;
and ends those that have waited past their deadline.

Any process with the store and the queue may run one, and several at once do no harm: a job is taken by one
compare-and-set, so a message too many wakes a worker for nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from shared.errors import Unavailable
from shared.job_queue import JobQueue
from shared.store import Store

log = logging.getLogger(__name__)

# The request that stored a job sends it a moment later itself; only what is older than this was forgotten.
UNSENT_AFTER_SECONDS = 1.0
# A queued job whose message is this old while the queue is empty: the broker was restarted without its data.
LOST_AFTER_SECONDS = 15.0
LOST_BATCH = 20


@dataclass(slots=True)
class Sweep:
    """Ids by what one pass did with them."""

    ended: list[str] = field(default_factory=list)
    requeued: list[str] = field(default_factory=list)
    sent: list[str] = field(default_factory=list)


class Sweeper:
    """A thread that sweeps every ``every_seconds`` and outlives any outage of the store and the broker."""

    def __init__(self, store: Store, queue: JobQueue, *, every_seconds: float) -> None:
        self._store = store
        self._queue = queue
        self._every = every_seconds
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._trouble: str | None = None

    def start(self) -> None:
        """Begin; the first pass is made at once."""
        self._stop.clear()
        self._thread = threading.Thread(target=self._run, name="sweeper", daemon=True)
        self._thread.start()

    def stop(self, *, timeout: float = 10.0) -> None:
        """End after the pass under way. Safe to call twice, and without ``start``."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout)
            self._thread = None

    def sweep_once(self) -> Sweep:
        """One pass.

        Raises:
            Unavailable: the store or the broker does not answer. What was done until then stays done.
        """
        done = Sweep()
        swept = self._store.claims.sweep()
        done.ended, done.requeued = swept.ended, swept.requeued
        for job_id in swept.requeued:
            log.warning("job %s lost its worker; it is queued again", job_id)
        for job_id in swept.ended:
            log.warning("job %s lost its worker; it was ended", job_id)
        for job_id in self._store.claims.end_overdue():
            log.warning("job %s waited past its deadline; it was ended", job_id)
            done.ended.append(job_id)
        self._store.gangs.sweep()
        self._send([*swept.requeued, *self._store.claims.wake_put_off()], done)
        self._send(self._store.claims.unsent(older_than_seconds=UNSENT_AFTER_SECONDS), done)
        for queue in self._store.claims.waiting_queues():
            # nobody is woken for jobs that their projects' limits hold back
            if self._queue.depth(queue) == 0 and self._store.claims.may_be_claimed(queue):
                lost = self._store.claims.sent_long_ago(
                    seconds=LOST_AFTER_SECONDS, limit=LOST_BATCH, queue=queue
                )
                self._send(lost, done)
        return done

    def _send(self, job_ids: Sequence[str], done: Sweep) -> None:
        queues = self._store.claims.queues_of(job_ids) if job_ids else {}
        for job_id, queue in queues.items():
            if self._stop.is_set():
                return
            self._queue.send(job_id, queue)
            self._store.jobs.mark_sent(job_id)
            done.sent.append(job_id)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.sweep_once()
            except Unavailable as error:
                self._complain(error.message)
            except Exception:
                # the thread must live: without it a lost job stays lost until the next restart
                log.exception("a sweep failed; the next one is made in %.1f s", self._every)
            else:
                if self._trouble is not None:
                    log.info("sweeping again")
                self._trouble = None
            self._stop.wait(self._every)

    def _complain(self, message: str) -> None:
        # once per outage, not once per pass
        if self._trouble is None:
            log.warning("sweeping waits: %s", message)
        self._trouble = message
