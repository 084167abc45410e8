"""What is read by hand, and what is left to a whole parser."""

from __future__ import annotations

from typing import Any, cast

import pytest

from shared.wire import parse_head
from shared.wire.head import without_upgrade
from shared.wire.uvicorn_wire import HeldHead


def _head(*lines: bytes) -> bytes:
    return b"\r\n".join([*lines, b"", b""])


def test_a_simple_head_is_taken_apart() -> None:
    head = parse_head(
        _head(
            b"POST /v1/models/m:predict?a=%20b HTTP/1.1",
            b"Host: x",
            b"CONTENT-length:  12 ",
            b"Connection: Keep-Alive",
        )
    )
    assert head is not None
    assert (head.method, head.target, head.length) == ("POST", b"/v1/models/m:predict?a=%20b", 12)
    assert head.headers == [(b"host", b"x"), (b"content-length", b"12"), (b"connection", b"Keep-Alive")]
    assert head.header(b"host") == b"x"
    assert head.header(b"accept") == b""


def test_no_length_is_no_body() -> None:
    head = parse_head(_head(b"GET / HTTP/1.1"))
    assert head is not None
    assert head.length == 0


def test_a_wish_for_another_protocol_is_passed_over() -> None:
    lines = [
        b"POST / HTTP/1.1",
        b"Connection: Upgrade, HTTP2-Settings",
        b"HTTP2-Settings: AAE",
        b"UPGRADE: h2c",
    ]
    head = parse_head(_head(*lines, b"Content-Length: 3"))
    assert head is not None
    assert (head.length, head.header(b"upgrade")) == (3, b"")
    chunked = _head(*lines, b"Transfer-Encoding: chunked") + b"3\r\nUpg\r\nUpgrade: x\r\n\r\n"
    assert without_upgrade(chunked) == (
        _head(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked", b"Connection: close")
        + b"3\r\nUpg\r\nUpgrade: x\r\n\r\n"
    )
    assert without_upgrade(chunked[:40]) == chunked[:40]
    assert without_upgrade(_head(b"GET / HTTP/1.0", b"X: upgrade: y")) == _head(
        b"GET / HTTP/1.0", b"X: upgrade: y"
    )


@pytest.mark.parametrize(
    "raw",
    [
        _head(b"GET / HTTP/1.0", b"Host: x"),
        _head(b"GET http://x/ HTTP/1.1", b"Host: x"),
        _head(b"OPTIONS * HTTP/1.1"),
        _head(b"GET /#part HTTP/1.1"),
        _head(b"GET /a b HTTP/1.1"),
        _head(b"BREW / HTTP/1.1"),
        _head(b"get / HTTP/1.1"),
        _head(b"GET / HTTP/1.1", b"Name : x"),
        _head(b"GET / HTTP/1.1", b"A: x", b" folded"),
        _head(b"GET / HTTP/1.1", b": x"),
        _head(b"GET / HTTP/1.1", b"A: x\ny: z"),
        _head(b"GET / HTTP/1.1", b"A: x\0"),
        _head(b"GET / HTTP/1.1", b"A: x\rB: y"),
        b"GET / HTTP/1.1\n\n\r\n\r\n",
        _head(b"POST / HTTP/1.1", b"Transfer-Encoding: chunked"),
        _head(b"POST / HTTP/1.1", b"Content-Length: 3", b"Transfer-Encoding: identity"),
        _head(b"POST / HTTP/1.1", b"Content-Length: 3", b"Content-Length: 3"),
        _head(b"POST / HTTP/1.1", b"Content-Length: +3"),
        _head(b"POST / HTTP/1.1", b"Content-Length: 3, 3"),
        _head(b"POST / HTTP/1.1", b"Content-Length: " + b"1" * 16),
        _head(b"POST / HTTP/1.1", b"Content-Length:"),
        _head(b"POST / HTTP/1.1", b"Content-Length: 3", b"Expect: 100-continue"),
        _head(b"GET / HTTP/1.1", b"Connection: close"),
        _head(b"GET / HTTP/1.1", b"Connection: upgrade, close", b"Upgrade: websocket"),
        b"",
        b"\r\n\r\n",
    ],
)  # fmt: skip
def test_what_is_unusual_is_left_alone(raw: bytes) -> None:
    assert parse_head(raw) is None


class _Transport:
    """Remembers what is written; uvloop's raises once it is closed."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.closed = False

    def is_closing(self) -> bool:
        return self.closed

    def writelines(self, parts: tuple[bytes, ...]) -> None:
        assert not self.closed
        self.written.extend(parts)


def test_an_answers_head_waits_for_its_body_and_neither_goes_to_a_closed_connection() -> None:
    transport = _Transport()
    held = HeldHead(cast(Any, transport))
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n"
    held.write(head)
    assert transport.written == []
    held.write(b"a")
    assert transport.written == [head, b"a"]
    held.write(head)
    transport.closed = True
    held.write(b"b")
    assert transport.written == [head, b"a"]
