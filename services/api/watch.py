"""One poller for all jobs that anybody watches: a job with 200 watchers costs the store as much as one with one.

Every tick one query asks for the last event number and the last write of each watched job. Only a job that has
changed is read; its new events are then put, rendered once, into a ring that all its watchers read from.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator

from anyio import to_thread

from services.api import render
from shared.errors import Unavailable
from shared.jobs import Job, JobEvent
from shared.store import Store

log = logging.getLogger(__name__)

TICK_SECONDS = 0.25
RING_EVENTS = 500
PAGE_EVENTS = 500


class Topic:
    """What is known of one watched job. Belongs to the event loop; ``changed`` wakes its watchers."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.pulse: tuple[int, float] = (job.event_seq, job.updated_at)
        self.ring: deque[tuple[int, bytes]] = deque(maxlen=RING_EVENTS)
        self.last_seq = job.event_seq  # events up to here are in the store, or in the ring, or both
        self.progress: bytes | None = _progress(job)
        self.watchers = 0
        self.version = 0
        self._changed = asyncio.Event()

    @property
    def first_in_ring(self) -> int:
        """Number of the oldest event that the ring has or will have next."""
        return self.ring[0][0] if self.ring else self.last_seq + 1

    def update(self, job: Job, events: list[JobEvent]) -> None:
        """Take in what is new and wake the watchers."""
        self.ring.extend((item.seq, sse_event(item)) for item in events)
        if events:
            self.last_seq = events[-1].seq
        self.progress = _progress(job)
        self.job = job
        self.wake()

    def wake(self) -> None:
        """Let every watcher look again."""
        self.version += 1
        self._changed.set()
        self._changed = asyncio.Event()

    async def changed(self, since: int, at_most: float) -> bool:
        """Wait for a version above ``since``; False when there was none in ``at_most`` seconds."""
        if self.version != since:
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(at_most):
                return await self._changed.wait()
        return False


class JobWatch:
    """The poller. It runs only while somebody watches."""

    def __init__(self, store: Store, *, tick_seconds: float = TICK_SECONDS) -> None:
        self._store = store
        self._tick = tick_seconds
        self._topics: dict[str, Topic] = {}
        self._task: asyncio.Task[None] | None = None
        self.closed = False

    @contextlib.asynccontextmanager
    async def follow(self, job: Job) -> AsyncIterator[Topic]:
        """The topic of a job, kept up to date inside the block."""
        topic = self._topics.get(job.id)
        if topic is None:
            topic = self._topics[job.id] = Topic(job)
        topic.watchers += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run(), name="job-watch")
        try:
            yield topic
        finally:
            topic.watchers -= 1
            if topic.watchers == 0 and self._topics.get(job.id) is topic:
                del self._topics[job.id]

    async def events_after(self, job_id: str, seq: int) -> list[JobEvent]:
        """A page of the history, for a watcher that is behind the ring."""
        found = await to_thread.run_sync(
            lambda: self._store.jobs.events(job_id, after=seq, limit=PAGE_EVENTS)
        )
        return found.items

    def close(self) -> None:
        """End all streams; the process stops."""
        self.closed = True
        for topic in self._topics.values():
            topic.wake()

    async def _run(self) -> None:
        while self._topics and not self.closed:
            try:
                await self._look()
            except Unavailable as error:
                log.debug("watching waits: %s", error.message)
            except Exception:
                log.exception("watching jobs failed; it is tried again")
            await asyncio.sleep(self._tick)

    async def _look(self) -> None:
        open_ids = [job_id for job_id, topic in self._topics.items() if not topic.job.state.terminal]
        if not open_ids:
            return
        pulses = await to_thread.run_sync(self._store.jobs.pulses, open_ids)
        for job_id, pulse in pulses.items():
            topic = self._topics.get(job_id)
            if topic is None or topic.pulse == pulse:
                continue
            job, events = await to_thread.run_sync(self._news, job_id, topic.last_seq)
            topic.pulse = (job.event_seq, job.updated_at)
            topic.update(job, events)

    def _news(self, job_id: str, after: int) -> tuple[Job, list[JobEvent]]:
        job = self._store.jobs.get(job_id)
        events: list[JobEvent] = []
        while after < job.event_seq:
            found = self._store.jobs.events(job_id, after=after, limit=PAGE_EVENTS)
            if not found.items:
                break
            events.extend(found.items)
            after = events[-1].seq
        return job, events


def sse_event(item: JobEvent) -> bytes:
    """A stored event as a server-sent event."""
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (
        item.seq,
        item.type.encode(),
        render.dumps(render.event(item)),
    )


def _progress(job: Job) -> bytes | None:
    shown = render.progress(job.progress)
    return None if shown is None else b"event: progress\ndata: %s\n\n" % render.dumps(shown)
