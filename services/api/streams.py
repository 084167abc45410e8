"""What a watcher of a job receives: server-sent events, or the growing log."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import BinaryIO

from anyio import to_thread

from services.api import render
from services.api.watch import JobWatch, sse_event
from shared.errors import Unavailable
from shared.jobs import Job

KEEP_ALIVE_SECONDS = 15.0
KEEP_ALIVE = b": keep-alive\n\n"
LOG_POLL_SECONDS = 0.25
LOG_CHUNK = 64 * 1024


def log_name(member: str | None) -> str:
    """Of a job's log in its run's folder; of a member of its cluster, its own."""
    return "job.log" if member is None else f"job.{member}.log"


async def job_events(watch: JobWatch, job: Job, after: int) -> AsyncIterator[bytes]:
    """Events of a job from number ``after`` on without a gap or a repeat, then ``end`` when the job has ended."""
    seen = after
    progress: bytes | None = None
    async with watch.follow(job) as topic:
        while not watch.closed:
            version = topic.version
            if seen + 1 < topic.first_in_ring:
                try:
                    page = await watch.events_after(job.id, seen)
                except Unavailable:
                    await asyncio.sleep(1.0)
                    continue
                if not page:  # asked to go on after an event that is not there yet
                    seen = topic.first_in_ring - 1
                    continue
                seen = page[-1].seq
                yield b"".join(map(sse_event, page))
                continue
            fresh = [(seq, data) for seq, data in topic.ring if seq > seen]
            if fresh:
                seen = fresh[-1][0]
                yield b"".join(data for _, data in fresh)
            current = topic.job
            if topic.progress != progress:
                progress = topic.progress
                if progress is not None and not current.state.terminal:
                    yield progress
            if current.state.terminal:
                if seen < topic.last_seq:
                    continue
                yield b"event: end\ndata: %s\n\n" % render.dumps(render.job(current))
                return
            if not await topic.changed(version, KEEP_ALIVE_SECONDS):
                yield KEEP_ALIVE


async def job_log(
    watch: JobWatch, job: Job, runs: Path, offset: int, member: str | None = None
) -> AsyncIterator[bytes]:
    """The job's log, or a member's, from ``offset`` on, as it grows, until the job has ended. No part of ``runs`` may
    be a link.
    """
    async with watch.follow(job) as topic:
        while not watch.closed:
            # the state first: what was written before the end is then read after it
            version, ended = topic.version, topic.job.state.terminal
            chunk = b""
            if topic.job.run_dir is not None:
                chunk = await to_thread.run_sync(read_at, runs / topic.job.run_dir / log_name(member), offset)
            if chunk:
                offset += len(chunk)
                yield chunk
            elif ended:
                return
            else:
                await topic.changed(version, LOG_POLL_SECONDS)


async def stored_log(path: Path | None, offset: int, end: int) -> AsyncIterator[bytes]:
    """The log's bytes from ``offset`` to ``end``."""
    while path is not None and offset < end:
        chunk = await to_thread.run_sync(read_at, path, offset, min(LOG_CHUNK, end - offset))
        if not chunk:
            return
        offset += len(chunk)
        yield chunk


def _open(path: Path) -> BinaryIO:
    """A log, and nothing that a job has put in its place: the API may read files that the job may not.

    Raises:
        FileNotFoundError: it is not there, is no plain file, or a part of ``path`` is a link.
    """
    try:
        if path.resolve() == path:
            file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return file
            file.close()
    except RuntimeError:  # a loop of links
        pass
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR):
            raise
    raise FileNotFoundError(path)


def size_of(path: Path) -> int:
    """Bytes of a file; 0 when it is not there."""
    try:
        with _open(path) as file:
            return os.fstat(file.fileno()).st_size
    except FileNotFoundError:
        return 0


def read_at(path: Path, offset: int, limit: int = LOG_CHUNK) -> bytes:
    """Bytes of a file from ``offset``; none when the file or the place is not there."""
    try:
        with _open(path) as file:
            file.seek(offset)
            return file.read(limit)
    except FileNotFoundError:
        return b""


def tail_offset(path: Path, lines: int) -> int:
    """Where the last ``lines`` lines of a file begin."""
    try:
        with _open(path) as file:
            position = file.seek(0, 2)
            left = lines  # line ends still to be passed, going backwards
            last = True
            while position > 0:
                size = min(LOG_CHUNK, position)
                position = file.seek(position - size)
                block = file.read(size)
                if last and block.endswith(b"\n"):
                    left += 1  # the end of the last line itself
                last = False
                at = len(block)
                while left and (at := block.rfind(b"\n", 0, at)) >= 0:
                    left -= 1
                if left == 0:
                    return position + at + 1
    except FileNotFoundError:
        pass
    return 0
