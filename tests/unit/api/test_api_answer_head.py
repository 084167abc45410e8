"""Heads of answers read by hand: either as a real parser reads them, or not at all."""

from __future__ import annotations

import httptools
import pytest

from services.api.answer_head import Head, plain_head

OURS = (
    b"HTTP/1.1 200 OK\r\ndate: Sun, 01 Nov 2026 10:00:00 GMT\r\ncontent-type: application/json\r\n"
    b"x-model-version: 3\r\ncontent-length: 2\r\n\r\nhi"
)


class _Reference:
    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []
        self.body = b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value))

    def on_body(self, body: bytes) -> None:
        self.body += body


@pytest.mark.parametrize(
    "answer",
    [
        OURS,
        b"HTTP/1.1 404 Not Found\r\nContent-Type: application/json\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Empty:\r\nX-Spaces: \t a b\r\nX-Colon: a:b\r\nContent-Length:2\r\n\r\nhi",
        b"HTTP/1.1 500 \r\nConnection: keep-alive\r\nX-Twice: 1\r\nX-Twice: 2\r\nContent-Length: 1\r\n\r\n{",
    ],
)
def test_plain_heads_are_read_as_a_parser_reads_them(answer: bytes) -> None:
    reference = _Reference()
    parser = httptools.HttpResponseParser(reference)
    parser.feed_data(answer)
    for _ in range(2):
        head = plain_head(answer)
        assert head == Head(
            parser.get_status_code(), reference.headers, answer.index(b"\r\n\r\n") + 4, len(reference.body)
        )


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        OURS[:40],
        OURS[:-4],
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 100 Continue\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nContent-Length : 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nX-Folded: a\r\n b\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nX-A: 1\nX-B: 2\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nX-A: 1\rX-B: 2\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nX A: 1\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\n: 1\r\nContent-Length: 2\r\n\r\nhi",
        b"HTTP/1.1 200 OK\r\nnothing\r\nContent-Length: 2\r\n\r\nhi",
    ],
)
def test_anything_else_is_left_to_a_parser(answer: bytes) -> None:
    assert plain_head(answer) is None
