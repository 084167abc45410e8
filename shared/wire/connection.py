"""A connection that reads simple requests into one buffer, and offers them to an application that answers at once.

For a small model most of a prediction's time would go into a general server: a task, events and a dozen calls a
request, and a copy of the body for each piece that arrives.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from http import HTTPStatus
from typing import NamedTuple, Protocol, cast

from shared.wire.head import Head, parse_head

_BUFFER = 16 * 1024  # bytes; grows to the size of a request
_SPARE = 1024
_KEPT_BUFFER = 2**20  # larger ones are given back when their request is answered
LONGEST_HEAD = 64 * 1024
# A head must be whole by then, and of a body something must come in such a time: half a request holds a connection.
SLOWEST_SECONDS = 60.0
_WITHOUT_BODY = (204, 304)
_STATUS_LINES = {one.value: b"HTTP/1.1 %d %s\r\n" % (one.value, one.phrase.encode()) for one in HTTPStatus}


class Answer(NamedTuple):
    """What goes back; ``content-length`` is added where an answer has one."""

    status: int
    headers: Sequence[tuple[bytes, bytes]]  # names in lower case
    body: bytes
    lines: bytes = b""  # more headers, as they are sent


Reply = Callable[[Answer], None]


class Quick(Protocol):
    """What answers requests without ASGI."""

    def takes(self, head: Head) -> bool:
        """Whether this may be one of its requests; its body is then read whole, whatever its length."""
        ...

    def answer(self, head: Head, body: bytes, reply: Reply, connection: Connection) -> bool:
        """Call ``reply`` once, now or later in the same thread; False: it is not one of its requests after all."""
        ...


class Connection(asyncio.BufferedProtocol):
    """One client. What it leaves to others is for ``_pass_on`` (the whole connection) and ``_run`` (one request)."""

    transport: asyncio.Transport
    client: tuple[str, int] | None = None  # its address

    def __init__(self, quick: Quick | None, *, keep_alive_seconds: float) -> None:
        self._quick = quick
        self._keep_alive_seconds = keep_alive_seconds
        self._buffer = bytearray(_BUFFER)
        self._filled = 0
        self._head: Head | None = None  # of the request whose body is being read
        self._body_at = 0
        self._taken = False  # by ``quick``
        self._last: tuple[bytes, Head] | None = None  # a client's requests often have the same head
        self._busy = False  # a request is being answered
        self._paused = False  # reading is
        self._unread = False  # the client does not read its answers as fast as it asks
        self._closing = False  # after the answer
        self._idle_since = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._looked = (0, 0.0)  # how much of a body there was, and since when
        self.answered = 0  # requests
        self.answered_quickly = False  # the last one, by ``quick``

    # asyncio ----------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self._loop = asyncio.get_running_loop()
        peer = transport.get_extra_info("peername")
        if isinstance(peer, tuple):  # else a socket in the file system
            self.client = (str(peer[0]), int(peer[1]))
        self._rest()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._filled == len(self._buffer):
            self._grow(2 * self._filled)
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        self._filled += nbytes
        if not self._busy and not self._unread:
            self._advance()
        if self._has_plenty() and not self._paused and not self.transport.is_closing():
            self._paused = True  # a client that sends request after request waits
            self.transport.pause_reading()

    def pause_writing(self) -> None:
        self._unread = True

    def resume_writing(self) -> None:
        self._unread = False
        if not self._busy and not self.transport.is_closing():
            self._read_on()
            self._loop.call_soon(self._go_on)

    # Reading ----------------------------------------------------------------------------------------

    def begin_with(self, data: bytes) -> None:
        """What has been read of this connection before it came here; to be called by ``connection_made``."""
        if len(data) > len(self._buffer):
            self._grow(len(data))
        self._buffer[: len(data)] = data
        self._filled = len(data)
        # the transport is not whole yet; whether more is read before then makes no difference
        self._loop.call_soon(self._go_on)

    def release(self) -> bytes:
        """What has been read and not been answered; nothing more is done with it here."""
        data = bytes(memoryview(self._buffer)[: self._filled])
        self._filled = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return data

    def _advance(self) -> None:
        """Answer the first request, if it has arrived whole."""
        if self._busy or self._unread or not self._filled:
            return
        head = self._head or self._find_head()
        if head is None:
            return
        if self._filled >= self._body_at + head.length:
            self._take(head)
        elif self._paused:
            self._read_on()

    def _find_head(self) -> Head | None:
        buffer = self._buffer
        last = self._last
        if last is not None and self._filled >= len(last[0]) and buffer.startswith(last[0]):
            raw, head = last
        else:
            end = buffer.find(b"\r\n\r\n", 0, self._filled) + 4
            if end < 4:
                if self._filled > LONGEST_HEAD:
                    self._pass_on()
                return None
            if end > LONGEST_HEAD:
                self._pass_on()  # where it is refused
                return None
            raw = bytes(memoryview(buffer)[:end])
            found = parse_head(raw)
            if found is None:
                self._pass_on()
                return None
            head = found
            self._last = (raw, head)
        self._taken = self._quick is not None and self._quick.takes(head)
        if not self._taken and not self._reads(head):
            self._pass_on()
            return None
        self._head, self._body_at = head, len(raw)
        # never quite full, for the loop asks for room once more before it finds that there is nothing to read
        if len(buffer) <= self._body_at + head.length:
            self._grow(self._body_at + head.length + _SPARE)
        return head

    def _take(self, head: Head) -> None:
        end = self._body_at + head.length
        body = bytes(memoryview(self._buffer)[self._body_at : end])
        self._busy = True
        if self._quick is not None and self._taken:
            self.answered_quickly = True
            if self._quick.answer(head, body, self._reply, self) or self.transport.is_closing():
                return
        self.answered_quickly = False
        self._run(head, body)

    def _consume(self) -> None:
        """The request at the buffer's beginning is answered: make room for the next one."""
        if self._head is None:
            return
        end = self._body_at + self._head.length
        rest = self._filled - end
        if rest:
            self._buffer[:rest] = self._buffer[end : self._filled]
        self._filled = rest
        self._head = None
        if len(self._buffer) > _KEPT_BUFFER and rest <= _BUFFER:
            self._grow(_BUFFER)

    def _grow(self, size: int) -> None:
        # a new one, for the loop may still hold a view of the old one
        larger = bytearray(max(size, _BUFFER))
        larger[: self._filled] = memoryview(self._buffer)[: self._filled]
        self._buffer = larger

    # Answering --------------------------------------------------------------------------------------

    def _reply(self, answer: Answer) -> None:
        if self.transport.is_closing():
            return
        status, headers, body, lines = answer
        parts = [_STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status]
        for name, value in (*self._default_headers(), *headers):
            parts += (name, b": ", value, b"\r\n")
        parts.append(lines)
        if self._closing:
            parts.append(b"connection: close\r\n")
        if status not in _WITHOUT_BODY:
            parts.append(b"content-length: %d\r\n" % len(body))
        parts.append(b"\r\n")
        if len(body) < _BUFFER:
            parts.append(body)
            self.transport.write(b"".join(parts))
        else:
            self.transport.writelines((b"".join(parts), body))
        self._done()

    def _done(self) -> None:
        """An answer has been written, here or by ``_run``."""
        self.answered += 1
        self._consume()
        self._busy = False
        if self._closing:
            self.transport.close()
            return
        if self._paused and not self._unread:
            self._read_on()
        self._rest()
        if self._filled:
            # not within this call: a client's many requests at once must not starve the others
            self._loop.call_soon(self._go_on)

    def _has_plenty(self) -> bool:
        """Whether more has been read than the request in hand and a whole head."""
        in_hand = self._body_at + self._head.length if self._head is not None else 0
        return self._filled - in_hand > LONGEST_HEAD

    def _read_on(self) -> None:
        if self._paused and not self._has_plenty():
            self._paused = False
            self.transport.resume_reading()

    def _go_on(self) -> None:
        if not self.transport.is_closing():
            self._advance()

    def shutdown(self) -> None:
        """Close it, after the answer to the request that is being answered, if there is one."""
        self._closing = True
        if not self._busy:
            self.transport.close()

    def _rest(self) -> None:
        self._idle_since = self._loop.time()
        if self._timer is None:
            self._timer = self._loop.call_later(self._keep_alive_seconds, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        now = self._loop.time()
        left = self._idle_since + self._keep_alive_seconds - now
        if left > 0 or self._busy or (self._filled and not self._is_too_slow(now)):
            self._timer = self._loop.call_later(max(left, 1.0), self._on_timer)
        elif not self.transport.is_closing():
            self.transport.close()

    def _is_too_slow(self, now: float) -> bool:
        """Whether the request that has begun to arrive has taken too long."""
        if self._unread:
            return False
        if self._head is None:
            return now > self._idle_since + self._keep_alive_seconds + SLOWEST_SECONDS
        if self._filled != self._looked[0]:
            self._looked = (self._filled, now)
        return now > self._looked[1] + SLOWEST_SECONDS

    # For those that build on it -----------------------------------------------------------------------

    def _default_headers(self) -> Sequence[tuple[bytes, bytes]]:
        return ()

    def _reads(self, head: Head) -> bool:
        """Whether a request that is not quick is to be read whole for ``_run``."""
        return False

    def _run(self, head: Head, body: bytes) -> None:
        """Answer a request that ``Quick`` has not answered, and call ``_done`` then."""
        raise NotImplementedError

    def _pass_on(self) -> None:
        """Give the connection, and what ``release`` gives, to somebody else."""
        raise NotImplementedError
