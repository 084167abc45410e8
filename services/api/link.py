"""One kept-alive HTTP/1.1 connection to a model server: a request, its answer, the next request."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import httptools

from services.api.answer_head import Head, Headers, plain_head

Parts = Sequence[bytes | memoryview]  # of a body; they go out one behind the other, uncopied


@dataclass(frozen=True, slots=True)
class Reply:
    """A whole answer; names of headers are lower case."""

    status: int
    headers: Headers
    content: bytes

    def header(self, name: bytes) -> bytes:
        """Its value; empty when it is not there."""
        for key, value in self.headers:
            if key == name:
                return value
        return b""


class ConnectionLost(ConnectionError):
    """The other side closed the connection before it answered."""


Outcome = Reply | Exception


class Link(asyncio.Protocol):
    """A plain answer is read by hand, any other one by httptools.

    ``settled`` is told, once for each request, when its outcome is there: the answer, a ConnectionLost, a
    ConnectionError where that was not HTTP, or what ``fail`` was given. ``then`` is for its use.
    """

    def __init__(self, settled: Callable[[Link, Outcome], None]) -> None:
        self.then: Callable[[Outcome], None] = nothing
        self._settled = settled
        self._asked = False
        self._transport: asyncio.Transport | None = None
        self._head: Head | None = None  # of the answer that is coming, if it is plain
        self._missing = 0  # bytes of its body
        self._content: list[bytes] = []
        self._parsed: _Parsed | None = None  # if it is not

    @property
    def usable(self) -> bool:
        """Whether another request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def ask(self, request: bytes, body: Parts) -> None:
        """Send a request; one at a time."""
        self._asked = True
        if self._transport is None:
            self.fail(ConnectionLost("the connection is closed"))
        else:
            # one write for a small request: one packet
            self._transport.writelines([request, *body])

    def fail(self, error: Exception) -> None:
        """Give up on the answer, and on the connection."""
        self.close()
        self._settle(error)

    def close(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def _settle(self, outcome: Outcome) -> None:
        if self._asked:
            self._asked = False
            self._head, self._parsed = None, None
            self._content = []
            self._settled(self, outcome)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but name

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self.fail(ConnectionLost(str(exc) if exc else "the connection was closed"))

    def data_received(self, data: bytes) -> None:
        if not self._asked:
            self.close()  # nobody has asked: what follows can't be told apart from the next answer
        elif self._parsed is not None:
            self._parse(self._parsed, data)
        elif self._head is not None:
            self._content.append(data)
            self._missing -= len(data)
            if self._missing <= 0:
                self._complete(self._head, b"".join(self._content))
        else:
            head = plain_head(data)
            if head is None:
                self._parsed = _Parsed()
                self._parse(self._parsed, data)
                return
            content = data[head.start :]
            if len(content) >= head.size:
                self._complete(head, content)
            else:
                self._head = head
                self._content = [content]
                self._missing = head.size - len(content)

    def _complete(self, head: Head, content: bytes) -> None:
        more = len(content) > head.size
        self._give(Reply(head.status, head.headers, content[: head.size] if more else content), keep=not more)

    def _parse(self, parsed: _Parsed, data: bytes) -> None:
        try:
            parsed.feed(data)
        except httptools.HttpParserError as error:
            if parsed.reply is None:
                self.fail(ConnectionError(f"that is not HTTP: {error}"))
                return
            parsed.keep = False  # the answer was whole; what came behind it is none
        if parsed.reply is not None:
            self._give(parsed.reply, keep=parsed.keep)

    def _give(self, reply: Reply, *, keep: bool) -> None:
        if not keep and self._transport is not None:
            self._transport.close()
        self._settle(reply)


def nothing(outcome: Outcome) -> None:
    """What an idle link does with an outcome."""


class _Parsed:
    """One answer as httptools reads it; the callbacks of its parser are methods."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self._headers: Headers = []
        self._content: list[bytes] = []
        self.reply: Reply | None = None
        self.keep = True
        self.feed = self._parser.feed_data

    def on_message_begin(self) -> None:
        if self.reply is not None:
            self.keep = False  # nobody has asked for another

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self._content.append(body)

    def on_message_complete(self) -> None:
        if self.reply is not None:
            return
        status = self._parser.get_status_code()
        if status < 200:  # 100 Continue: the real answer follows
            self._headers, self._content = [], []
            return
        self.reply = Reply(status, self._headers, b"".join(self._content))
        self.keep = self._parser.should_keep_alive()
