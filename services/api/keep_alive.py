"""A pool of kept-alive HTTP/1.1 connections for the requests that must be fast: those to the model server.

httpx spends 1 ms of processor time on such a request, this less than a twentieth of it; the predictions themselves take
no more.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

from services.api.answer_head import Headers
from services.api.link import ConnectionLost, Link, Outcome, Parts, Reply, nothing

__all__ = ["JSON", "ConnectionLost", "Headers", "KeepAlivePool", "Outcome", "Parts", "Reply"]

MAX_CONNECTIONS = 200
CONNECT_SECONDS = 5.0  # a machine that is busy, rather than a server that is gone: that refuses at once
JSON: Headers = [(b"content-type", b"application/json")]


class KeepAlivePool:
    """Belongs to one event loop. ``seconds``: for a whole request, with waiting for a connection."""

    def __init__(self, base_url: str, *, seconds: float = 60.0) -> None:
        parts = urlsplit(base_url)
        self._host = parts.hostname or "127.0.0.1"
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/").encode()
        self._host_line = b" HTTP/1.1\r\nHost: %s\r\n" % parts.netloc.rpartition("@")[2].encode()
        self.seconds = seconds
        self._link = partial(Link, self._settled)
        self._idle: deque[Link] = deque()
        self._in_use = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._deadlines = _Deadlines()

    async def send(self, method: bytes, path: bytes, headers: Headers, body: Parts) -> Reply:
        """Send a request and wait for the whole answer; ``path`` is percent-encoded and may have a query.

        Not for HEAD, whose answers announce a body that does not come. ``headers`` come without Host and
        Content-Length. ``body`` goes out uncopied and must stay as it is until this returns. A kept connection that
        turns out to be closed is replaced once: the server had given up on it while it idled.

        Raises:
            TimeoutError: no answer in time.
            OSError: no connection, or it was lost (``ConnectionLost``).
        """
        request = self._request(method, path, headers, body)
        ends = time.monotonic() + self.seconds
        if self._in_use < MAX_CONNECTIONS:
            self._in_use += 1
        else:
            await self._turn(ends)
        try:
            link = self._idle_one()
            if link is not None:
                with contextlib.suppress(ConnectionLost):
                    return await self._ask(link, request, body, ends)
            return await self._ask(await self._connect(ends), request, body, ends)
        finally:
            self._give_turn()

    def send_at_hand(
        self, method: bytes, path: bytes, headers: Headers, body: Parts, then: Callable[[Outcome], None]
    ) -> bool:
        """As ``send``, where a connection is there and free: ``then`` gets what ``send`` would return or raise.

        No task is needed for it, nor a turn of the loop. False: there is none, and nothing was done.
        """
        if self._in_use >= MAX_CONNECTIONS:
            return False
        link = self._idle_one()
        if link is None:
            return False
        self._in_use += 1
        link.then = partial(self._then, then)
        self._deadlines.begin(link, time.monotonic() + self.seconds)
        link.ask(self._request(method, path, headers, body), body)
        return True

    def _then(self, then: Callable[[Outcome], None], outcome: Outcome) -> None:
        self._give_turn()
        then(outcome)

    def _request(self, method: bytes, path: bytes, headers: Headers, body: Parts) -> bytes:
        size = sum(map(len, body))
        lines = [b"%s: %s\r\n" % pair for pair in headers]
        if size or method != b"GET":
            lines.append(b"Content-Length: %d\r\n" % size)
        return b"%s %s%s%s%s\r\n" % (method, self._prefix, path, self._host_line, b"".join(lines))

    def _idle_one(self) -> Link | None:
        while self._idle:
            link = self._idle.pop()
            if link.usable:
                return link
        return None

    async def _turn(self, ends: float) -> None:
        """Wait for somebody's place among those in use; first come, first served."""
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        try:
            async with asyncio.timeout(ends - time.monotonic()):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # it came at the same moment
                self._give_turn()
            raise

    def _give_turn(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                return
        self._in_use -= 1

    async def _connect(self, ends: float) -> Link:
        loop = asyncio.get_running_loop()
        left = ends - time.monotonic()
        try:
            async with asyncio.timeout(min(CONNECT_SECONDS, left)):
                _, link = await loop.create_connection(self._link, self._host, self._port, ssl=self._tls)
        except TimeoutError:
            if left < CONNECT_SECONDS:
                raise
            raise ConnectionError(f"no connection within {CONNECT_SECONDS:.0f} s") from None
        return link

    async def _ask(self, link: Link, request: bytes, body: Parts, ends: float) -> Reply:
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        link.then = partial(_put, answer)
        self._deadlines.begin(link, ends)
        link.ask(request, body)
        try:
            return await answer
        except asyncio.CancelledError:
            if answer.cancelled():  # the client has gone away: what comes would be the next one's answer
                link.close()
            raise

    def _settled(self, link: Link, outcome: Outcome) -> None:
        self._deadlines.end(link)
        if link.usable:
            self._idle.append(link)
        then, link.then = link.then, nothing  # which holds the request, its body too
        then(outcome)

    async def aclose(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()


def _put(answer: asyncio.Future[Reply], outcome: Outcome) -> None:
    if answer.done():
        return  # nobody waits any more
    if isinstance(outcome, Reply):
        answer.set_result(outcome)
    else:
        answer.set_exception(outcome)


class _Deadlines:
    """One timer for all requests under way: a timer for each would cost as much as sending it."""

    def __init__(self) -> None:
        self._ends: dict[Link, float] = {}  # on the monotonic clock
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def begin(self, link: Link, ends: float) -> None:
        self._ends[link] = ends
        if self._timer is None or ends < self._due:
            self._set(ends)

    def end(self, link: Link) -> None:
        self._ends.pop(link, None)

    def _set(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = asyncio.get_running_loop().call_later(max(0.0, due - time.monotonic()), self._look)

    def _look(self) -> None:
        self._timer = None
        now = time.monotonic()
        for link in [link for link, ends in self._ends.items() if ends <= now]:
            link.fail(TimeoutError())
        if self._ends:
            self._set(min(self._ends.values()))
