"""A pool of kept-alive HTTP/1.1 connections for the requests that must be fast: those to the model server.

httpx spends 1 ms of processor time on such a request, this a tenth of it; the predictions themselves take less.
"""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from typing import cast
from urllib.parse import urlsplit

import httptools

MAX_CONNECTIONS = 200
CONNECT_SECONDS = 2.0
Headers = list[tuple[bytes, bytes]]
JSON: Headers = [(b"content-type", b"application/json")]


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer; names of headers are lower case."""

    status: int
    headers: Headers
    content: bytes

    def header(self, name: bytes) -> bytes:
        """Its value; empty when it is not there."""
        return next((value for key, value in self.headers if key == name), b"")


class ConnectionLost(ConnectionError):
    """The other side closed the connection before it answered."""


class KeepAlivePool:
    """Belongs to one event loop."""

    def __init__(self, base_url: str) -> None:
        parts = urlsplit(base_url)
        self._host = parts.hostname or "127.0.0.1"
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._port = parts.port or (443 if self._tls else 80)
        self._prefix = parts.path.rstrip("/").encode()
        self._host_line = b" HTTP/1.1\r\nHost: %s\r\n" % parts.netloc.rpartition("@")[2].encode()
        self._idle: deque[_Link] = deque()
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)

    async def send(self, method: bytes, path: bytes, headers: Headers, body: bytes) -> Reply:
        """Send a request and wait for the whole answer; ``path`` is percent-encoded and may have a query.

        Not for HEAD, whose answers announce a body that does not come. ``headers`` come without Host and
        Content-Length. A kept connection that turns out to be closed is replaced once: the server had given up on it
        while it idled.

        Raises:
            OSError: no connection, or it was lost (``ConnectionLost``).
        """
        lines = b"".join(b"%s: %s\r\n" % pair for pair in headers)
        length = b"Content-Length: %d\r\n" % len(body) if body or method != b"GET" else b""
        request = b"%s %s%s%s%s%s\r\n" % (method, self._prefix, path, self._host_line, lines, length)
        async with self._free:
            while self._idle:
                link = self._idle.pop()
                if link.usable:
                    try:
                        return await self._ask(link, request, body)
                    except ConnectionLost:
                        break
            return await self._ask(await self._connect(), request, body)

    async def _connect(self) -> _Link:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                _, link = await loop.create_connection(_Link, self._host, self._port, ssl=self._tls)
        except TimeoutError:
            raise ConnectionError(f"no connection within {CONNECT_SECONDS:.0f} s") from None
        return link

    async def _ask(self, link: _Link, request: bytes, body: bytes) -> Reply:
        try:
            reply = await link.ask(request, body)
        except BaseException:  # also when the client has gone away: the answer would be the next one's
            link.close()
            raise
        if link.usable:
            self._idle.append(link)
        return reply

    async def aclose(self) -> None:
        """Close what is idle."""
        while self._idle:
            self._idle.pop().close()


class _Link(asyncio.Protocol):
    """One connection, one request at a time; the callbacks of httptools' parser are methods."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Reply] | None = None
        self._begin()

    def _begin(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: Headers = []
        self._content: list[bytes] = []

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes, body: bytes) -> Reply:
        """Send and wait."""
        if self._transport is None:
            raise ConnectionLost("the connection is closed")
        self._begin()
        self._answer = asyncio.get_running_loop().create_future()
        # one write for a small request: one packet
        self._transport.writelines([request, body])
        return await self._answer

    def close(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._fail(ConnectionLost(str(exc) if exc else "the connection was closed"))

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"that is not HTTP: {error}"))
            self.close()

    def _fail(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self._content.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # 100 Continue: the real answer follows
            self._headers, self._content = [], []
            return
        if not self._parser.should_keep_alive() and self._transport is not None:
            self._transport.close()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(Reply(status, self._headers, b"".join(self._content)))
