"""uvicorn with ``Wire``, asked over sockets: by every way that a request may come, and go."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any, cast

import httpx
import pytest
import uvicorn

from shared.wire import Answer, Connection, Head
from shared.wire.connection import Reply
from shared.wire.uvicorn_wire import Wire
from tests.conftest import free_port


class _App:
    """Tells what it was asked. ``/quick`` at once, ``/later`` from a timer, ``/never`` not, ``/declined`` by ASGI."""

    def __init__(self) -> None:
        self.quick = self
        self.lost = threading.Event()

    def takes(self, head: Head) -> bool:
        return head.target.startswith((b"/quick", b"/later", b"/never", b"/declined"))

    def answer(self, head: Head, body: bytes, reply: Reply, connection: Connection) -> bool:
        if head.target == b"/declined":
            return False
        answer = Answer(200, [(b"x-by", b"quick")], b"%s %d" % (head.target, len(body)))
        if head.target == b"/later":
            asyncio.get_running_loop().call_later(0.2, reply, answer)
        elif head.target != b"/never":
            reply(answer)
        return True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/slow":
            await asyncio.sleep(0.3)
        if scope["path"] == "/waits":
            await receive()
            assert (await receive())["type"] == "http.disconnect"
            self.lost.set()
            return
        size = 0
        while True:
            message = await receive()
            size += len(message.get("body", b""))
            if not message.get("more_body"):
                break
        told = json.dumps([scope["method"], scope["path"], scope["query_string"].decode(), size]).encode()
        headers = [(b"x-by", b"asgi")]
        if scope["path"] != "/stream":
            headers.append((b"content-length", b"%d" % len(told)))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": told})


class _Server:
    def __init__(self, loop: Any, keep_alive: int = 120) -> None:
        self.app = _App()
        self.port = free_port()
        config = uvicorn.Config(
            self.app, port=self.port, http=cast(Any, Wire), loop=loop, lifespan="off", log_config=None,
            ws="none", timeout_keep_alive=keep_alive,
        )  # fmt: skip
        self.uvicorn = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.uvicorn.run)
        self.thread.start()
        deadline = time.monotonic() + 30
        while not self.uvicorn.started:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        self.url = f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def stop(self) -> None:
        self.uvicorn.should_exit = True
        self.thread.join(30)
        assert not self.thread.is_alive(), self.uvicorn.server_state.connections


@pytest.fixture(params=["asyncio", "uvloop"], scope="module")
def server(request: pytest.FixtureRequest) -> Iterator[_Server]:
    running = _Server(request.param)
    yield running
    running.stop()


def _post(target: bytes, body: bytes, *more: bytes) -> bytes:
    return b"\r\n".join(
        [b"POST %s HTTP/1.1" % target, b"Host: x", b"Content-Length: %d" % len(body), *more, b"", body]
    )


def _read(client: socket.socket, answers: int) -> list[tuple[int, bytes, bytes]]:
    """Status, value of x-by and body of so many answers."""
    file = client.makefile("rb")
    found = []
    for _ in range(answers):
        status = int(file.readline().split()[1])
        headers = {}
        while (line := file.readline().rstrip()) != b"":
            name, _, value = line.partition(b": ")
            headers[name.lower()] = value
        found.append((status, headers.get(b"x-by", b""), file.read(int(headers[b"content-length"]))))
    return found


@pytest.mark.parametrize("path", ["/quick", "/later", "/declined", "/other", "/stream"])
@pytest.mark.parametrize("size", [0, 10, 100_000, 3_000_000])
def test_a_client_gets_its_answer_whatever_its_size(server: _Server, path: str, size: int) -> None:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for _ in range(3):
            answer = client.post(path, content=b"x" * size)
            assert answer.status_code == 200
            assert "date" in answer.headers
            quick = path in ("/quick", "/later")
            assert answer.headers["x-by"] == ("quick" if quick else "asgi")
            told = f"{path} {size}" if quick else json.dumps(["POST", path, "", size])
            assert answer.text == told


def test_other_methods_queries_and_encoded_paths_reach_the_application(server: _Server) -> None:
    with httpx.Client(base_url=server.url, timeout=30) as client:
        for method in ("GET", "PUT", "DELETE", "PATCH", "OPTIONS"):
            assert client.request(method, "/a%20b?c=%20d").json() == [method, "/a b", "c=%20d", 0]
        head = client.head("/a")
        assert (head.status_code, head.content) == (200, b"")
        assert client.get("/b").json() == ["GET", "/b", "", 0]


def test_requests_sent_at_once_are_answered_in_their_order(server: _Server) -> None:
    with server.connect() as client:
        client.sendall(
            _post(b"/quick1", b"ab")
            + _post(b"/later", b"abc")
            + _post(b"/quick2", b"")
            + _post(b"/slow", b"x" * 1000)
            + _post(b"/quick3", b"a")
        )
        assert _read(client, 5) == [
            (200, b"quick", b"/quick1 2"),
            (200, b"quick", b"/later 3"),
            (200, b"quick", b"/quick2 0"),
            (200, b"asgi", b'["POST", "/slow", "", 1000]'),
            (200, b"quick", b"/quick3 1"),
        ]


def test_many_requests_sent_at_once_are_all_answered(server: _Server) -> None:
    with server.connect() as client:
        sender = threading.Thread(target=client.sendall, args=(_post(b"/quick", b"x" * 1000) * 2000,))
        sender.start()
        assert len(_read(client, 2000)) == 2000
        sender.join()


@pytest.mark.parametrize("path", [b"/quick", b"/other"])
def test_a_client_that_reads_no_answers_is_asked_to_wait(server: _Server, path: bytes) -> None:
    request_ = b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % path
    with server.connect() as client:
        client.settimeout(1)
        with pytest.raises(TimeoutError):
            client.sendall(request_ * 2_000_000)
    with server.connect() as client:
        sender = threading.Thread(target=client.sendall, args=(request_ * 5000,))
        sender.start()
        time.sleep(0.5)
        assert len(_read(client, 5000)) == 5000
        sender.join()


def test_a_request_may_come_in_pieces(server: _Server) -> None:
    with server.connect() as client:
        for _ in range(2):
            whole = _post(b"/quick", b"0123456789")
            for at in range(len(whole)):
                client.sendall(whole[at : at + 1])
                if at % 7 == 0:
                    time.sleep(0.002)
            assert _read(client, 1) == [(200, b"quick", b"/quick 10")]


def test_a_head_that_begins_like_the_last_one_is_read_anew(server: _Server) -> None:
    with server.connect() as client:
        for body in (b"abc", b"a", b""):
            client.sendall(_post(b"/quick", body))
            assert _read(client, 1)[0][2] == b"/quick %d" % len(body)
        client.sendall(b"GET /get HTTP/1.1\r\n")
        time.sleep(0.05)
        client.sendall(b"Host: x\r\n\r\n")
        assert _read(client, 1)[0][2] == b'["GET", "/get", "", 0]'


@pytest.mark.parametrize(
    "request_",
    [
        _post(b"/quick", b"", b"Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
        + b"3\r\nabc\r\n0\r\n\r\n",
        _post(b"/quick", b"abc", b"Connection: close"),
        _post(b"/quick", b"abc").replace(b"HTTP/1.1", b"HTTP/1.0"),
    ],
)  # fmt: skip
def test_unusual_requests_go_to_the_whole_parser(server: _Server, request_: bytes) -> None:
    with server.connect() as client:
        client.sendall(_post(b"/quick", b"before") + request_)
        assert _read(client, 2) == [
            (200, b"quick", b"/quick 6"),
            (200, b"asgi", b'["POST", "/quick", "", 3]'),
        ]


H2C = b"Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAEAAEAA\r\nUpgrade: h2c"


@pytest.mark.parametrize("path", [b"/quick", b"/declined", b"/post"])
@pytest.mark.parametrize("size", [3, 200_000])
def test_who_would_rather_have_http_2_is_answered_all_the_same(
    server: _Server, path: bytes, size: int
) -> None:
    wanted = b"/quick %d" % size if path == b"/quick" else b'["POST", "%s", "", %d]' % (path, size)
    with server.connect() as client:
        client.sendall(_post(path, b"x" * size, H2C))
        assert _read(client, 1)[0][2] == wanted
    chunked = _post(path, b"", H2C + b"\r\nTransfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")
    with server.connect() as client:
        client.sendall(chunked + b"3\r\nabc\r\n0\r\n\r\n")
        assert _read(client, 1)[0][2] == b'["POST", "%s", "", 3]' % path


def test_who_asks_whether_to_send_is_told_to(server: _Server) -> None:
    with server.connect() as client:
        client.sendall(_post(b"/quick", b"", b"Expect: 100-continue").replace(b"Length: 0", b"Length: 3"))
        assert client.recv(1000).startswith(b"HTTP/1.1 100 ")
        client.sendall(b"abc")
        assert _read(client, 1) == [(200, b"asgi", b'["POST", "/quick", "", 3]')]


@pytest.mark.parametrize(
    "junk",
    [
        b"\0\1\2\3\r\n\r\n",
        b"POST / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"GET / HTTP/9.9\r\n\r\n",
        b"x" * 70_000,
    ],
)
def test_nonsense_is_refused(server: _Server, junk: bytes) -> None:
    with server.connect() as client:
        client.sendall(junk)
        assert client.recv(1000).startswith(b"HTTP/1.1 400 ")


_ENDLESS = {
    "one line": (b"GET / HTTP/1.1\r\nX: ", b"a" * 1000),
    "lines": (b"GET / HTTP/1.1\r\n", b"X: a\r\n"),
    "a path": (b"GET /", b"a" * 1000),
    "behind chunks": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X: a\r\n"),
    "after an answer": (
        b"GET / HTTP/1.1\r\nConnection: keep-alive, x\r\n\r\nGET / HTTP/1.1\r\n",
        b"X: a\r\n",
    ),
}


@pytest.mark.parametrize("where", _ENDLESS)
def test_a_head_without_end_is_refused(server: _Server, where: str) -> None:
    begin, line = _ENDLESS[where]
    got = b""
    with server.connect() as client:
        try:
            client.sendall(begin + line * (300_000 // len(line)))
            while data := client.recv(1000):
                got += data
        except OSError:
            # while a request is being answered nobody waits until the rest has been read
            assert where in ("behind chunks", "after an answer")
        else:
            assert b"HTTP/1.1 431 " in got


@pytest.mark.parametrize("at_once", [True, False])
def test_a_head_may_have_64_kib(server: _Server, at_once: bool) -> None:
    for size, status in ((60_000, b"200"), (66_000, b"431")):
        with server.connect() as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nX: ")
            time.sleep(0 if at_once else 0.05)
            client.sendall(b"a" * size + b"\r\n\r\n")
            assert client.recv(1000).startswith(b"HTTP/1.1 " + status)


@pytest.mark.parametrize(
    "half",
    [
        b"GET / HTTP/1.1\r\nHost: x\r\n",
        b"POST /quick HTTP/1.1\r\nContent-Length: 5\r\n\r\nab",
        b"GET / HTTP/1.1\r\nConnection: keep-alive, x\r\n\r\nGET / HTTP/1.1\r\nHost",
    ],
)
def test_half_a_request_holds_no_connection_for_ever(half: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shared.wire.connection.SLOWEST_SECONDS", 0.3)
    own = _Server("uvloop", keep_alive=0)
    try:
        with own.connect() as client:
            client.sendall(half)
            while client.recv(1000):
                pass
    finally:
        own.stop()


def test_a_client_that_leaves_is_noticed(server: _Server) -> None:
    with server.connect() as client:
        client.sendall(_post(b"/waits", b"abc"))
        time.sleep(0.1)
    assert server.app.lost.wait(20)
    with server.connect() as client:
        client.sendall(_post(b"/later", b"abc"))
    time.sleep(0.3)
    assert httpx.get(server.url).status_code == 200


def test_a_stop_lets_the_request_in_hand_end(server: _Server) -> None:
    for target, by in ((b"/later", b"quick"), (b"/slow", b"asgi")):
        own = _Server("uvloop")
        with own.connect() as client, own.connect() as idle:
            client.sendall(_post(target, b"abc"))
            time.sleep(0.1)
            own.uvicorn.should_exit = True
            assert _read(client, 1)[0][:2] == (200, by)
            assert client.recv(1) == b""
            assert idle.recv(1) == b""
        own.stop()


def test_an_idle_connection_ends_and_a_used_one_does_not() -> None:
    own = _Server("uvloop", keep_alive=1)
    with own.connect() as client, own.connect() as busy:
        busy.sendall(_post(b"/never", b""))
        client.sendall(_post(b"/quick", b""))
        assert len(_read(client, 1)) == 1
        assert client.recv(1) == b""
        busy.settimeout(1)
        with pytest.raises(TimeoutError):
            busy.recv(1)
    own.stop()


def test_answers_that_a_client_does_not_read_are_kept_for_it(server: _Server) -> None:
    with server.connect() as client:
        for _ in range(200):
            client.sendall(_post(b"/other", gzip.compress(b"x" * 1000)))
        time.sleep(0.2)
        assert len(_read(client, 200)) == 200
