"""Predictions asked by clients, and answered by model servers, that keep to no rule: never a 500, never a hang."""

from __future__ import annotations

import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from tests.integration.api.conftest import Api, ModelServer, Running

PATIENCE = 60.0  # the machine may be busy; what hangs, hangs for ever
ROWS = b'{"model": "m", "instances": [[1.0]]}'


def _connect(api: Api) -> socket.socket:
    return socket.create_connection(("127.0.0.1", api.running.port), timeout=PATIENCE)


def _request(line: str, body: bytes = b"", *headers: str, length: int | None = None) -> bytes:
    told = [f"Content-Length: {len(body) if length is None else length}"] if length != -1 else []
    head = "\r\n".join([f"{line} HTTP/1.1", "Host: 127.0.0.1", *told, *headers])
    return head.encode("latin-1") + b"\r\n\r\n" + body


def _answers(
    link: socket.socket, count: int = 1, *, head: bool = False
) -> list[tuple[int, dict[str, str], bytes]]:
    """So many whole answers; fewer when the connection is closed."""
    stream = link.makefile("rb")
    found = []
    for _ in range(count):
        first = stream.readline()
        if not first:
            break
        headers = {}
        while line := stream.readline().strip():
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        status = int(first.split()[1])
        if head or status in (204, 304):
            body = b""
        elif headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(stream.readline(), 16):
                body += stream.read(size)
                stream.readline()
            stream.readline()
        else:
            body = stream.read(int(headers["content-length"]))
        found.append((status, headers, body))
    return found


@pytest.fixture
def served(api: Api, model_server: ModelServer) -> Api:
    model_server.states["m"] = {1: "AVAILABLE"}
    return api


@pytest.mark.parametrize("path", ["/predict", "/v1/models/m:predict"])
def test_bodies_of_any_kind_get_an_answer_in_words(served: Api, model_server: ModelServer, path: str) -> None:
    # the model server's own parser is not under test: it takes everything
    model_server.answer = lambda _: pytest.fail("it was passed on") if path == "/predict" else None
    values: list[Any] = [
        b"", b" ", b"{", b"[]", b"null", b"0", b'""', b"\x00", b"\xff\xfe", b"{}" * 2, b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"model": "m", "instances": [[1.0]]', b'{"model": "m", "instances": ' + b"[" * 5000, b"NaN",
        b"-", b'{"model"}',
        *(json.dumps(value).encode() for value in (
            {"model": None, "instances": [1]}, {"model": [], "instances": [1]}, {"model": {"a": 1}, "instances": [1]},
            {"model": "m" * 100_000, "instances": [1]}, {"model": "m", "instances": {}},
            {"model": "m", "instances": "x"},
            {"model": "m", "instances": None, "inputs": None}, {"model": "m", "version": 1.5, "instances": [1]},
            {"model": "m", "version": 10**400, "instances": [1]}, {"model": "m", "version": True, "label": []},
            {"model": "m", "label": 3, "instances": [1]}, {"model": "m", "signature_name": 3, "instances": [1]},
            {"model": "m", "instances": [1], "instances ": [1]}, {"model": "m\ud800", "instances": [1]},
            {"model": "..", "instances": [1]}, {"model": "m/versions/1", "instances": [1]},
            {"model": "m%2F..", "instances": [1]}, {"model": "m\r\nX: y", "instances": [1]},
        )),
    ]  # fmt: skip
    if path != "/predict":
        values = [value for value in values if value in (b"", b" ", b"{", b"\x00")]
    with closing(_connect(served)) as link:
        for value in values:
            link.sendall(_request(f"POST {path}", value))
            ((status, headers, body),) = _answers(link)
            if path == "/predict":
                assert 400 <= status < 500, (value[:80], status, body[:200])
                assert headers["content-type"] == "application/problem+json"
                assert json.loads(body)["code"]


@pytest.mark.parametrize(
    ("line", "headers", "statuses"),
    [
        ("GET /predict", (), {405}),
        ("HEAD /predict", (), {405}),
        ("OPTIONS /predict", (), {405}),
        ("PUT /predict", (), {405}),
        ("POST /predict/", (), {404}),
        ("POST /predict?model=m", ("Content-Type: application/x-npy",), {400}),
        ("POST /predict?model=%FF&model=m&x=%00", ("Content-Type: application/x-npy",), {400, 422}),
        ("POST /predict", ("Content-Type: application/x-npy", "Accept: application/x-npy"), {422}),
        ("POST /predict", ("Content-Type: multipart/form-data",), {400}),
        ("POST /predict", ("Content-Type: multipart/form-data; boundary=" + "x" * 999,), {400}),
        ("POST /predict", ("Content-Encoding: gzip", "Content-Type: application/json"), {400}),
        ("POST /predict", ("X-Request-Key: \xff\xfe", "X-Request-Id: \xff"), {400}),
        ("POST /predict", ("Accept: " + "a," * 5000,), {400}),
        ("GET /v1/models/%2e%2e/%2e%2e/jobs", (), {404}),
        ("GET /v1/models/m%00", (), {200, 404}),
        ("GET /v1/models/%", (), {200, 404}),
        ("GET /v1/models/m%2Fx%3Ay/labels/%C3%BC", (), {200, 404}),
        ("POST /v1/models/m%3Apredict", (), {200, 400, 404}),
        ("POST /v1/models//versions/1:echo", (), {200, 299, 404}),
        ("POST /v1/models/m/labels/\xfc:echo", (), {200, 299, 400, 404}),
        ("HEAD /v1/models/m", (), {200, 404, 405}),
        ("OPTIONS /v1/models/m:predict", ("Origin: http://127.0.0.1",), {200, 403, 404, 405}),
        ("DELETE /v1/models/m", (), {200, 400, 404, 405}),
        ("GET /v1/models/" + "m" * 20_000, (), {200, 404}),
    ],
)  # fmt: skip
def test_methods_paths_and_headers_of_any_kind(
    served: Api, line: str, headers: tuple[str, ...], statuses: set[int]
) -> None:
    with closing(_connect(served)) as link:
        link.sendall(_request(line, b"", *headers))
        ((status, _, body),) = _answers(link, head=line.startswith("HEAD"))
        assert status in statuses, (status, body[:300])


def test_requests_behind_one_another_are_answered_in_order(served: Api) -> None:
    rows = [b'{"model": "m", "inputs": [%d]}' % number for number in range(20)]
    with closing(_connect(served)) as link:
        link.sendall(b"".join(_request("POST /predict", row) for row in rows))
        found = [json.loads(body) for _, _, body in _answers(link, 20)]
    assert [one["outputs"] for one in found] == [[number] for number in range(20)]


def test_chunks_expectations_and_slow_clients(served: Api) -> None:
    chunked = b"".join(b"%x\r\n%s\r\n" % (1, ROWS[n : n + 1]) for n in range(len(ROWS))) + b"0\r\n\r\n"
    for path, body in (("/predict", ROWS), ("/v1/models/m:predict", ROWS)):
        with closing(_connect(served)) as link:
            link.sendall(_request(f"POST {path}", chunked, "Transfer-Encoding: chunked", length=-1))
            assert _answers(link)[0][0] == 200
            link.sendall(_request(f"POST {path}", b"", "Expect: 100-continue", length=len(body)))
            assert link.recv(100).startswith(b"HTTP/1.1 100")
            for number in range(len(body)):
                link.sendall(body[number : number + 1])
            assert _answers(link)[0][0] == 200


@pytest.mark.parametrize("path", ["/predict", "/v1/models/m:predict"])
def test_clients_that_leave_disturb_nobody(served: Api, path: str) -> None:
    for part in (_request(f"POST {path}", ROWS, length=10_000), _request(f"POST {path}", ROWS)):
        for reset in (False, True):
            link = _connect(served)
            link.sendall(part)
            if reset:
                link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            link.close()
    assert served.http.post("/predict", content=ROWS).status_code == 200


@pytest.mark.parametrize("path", ["/predict", "/v1/models/m:predict"])
def test_a_body_over_the_limit_is_refused_in_words(
    start_api: Callable[..., Api], serving: Running, path: str
) -> None:
    api = start_api(max_body_mb=1, serving_url=serving.url)
    with closing(_connect(api)) as link:
        link.sendall(_request(f"POST {path}", b"", length=10**12))
        assert _answers(link)[0][0] == 413
    with closing(_connect(api)) as link:
        link.sendall(_request(f"POST {path}", b"", "Transfer-Encoding: chunked", length=-1))
        piece = b"10000\r\n" + b"x" * 65536 + b"\r\n"
        link.sendall(piece * 17)
        assert _answers(link)[0][0] == 413


def test_many_idle_connections_hold_nobody_up(served: Api) -> None:
    links = [_connect(served) for _ in range(300)]
    try:
        for link in links[:100]:
            link.sendall(b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le")
        for link in links[100:200]:
            link.sendall(_request("POST /predict", ROWS[:10], length=len(ROWS)))
        assert served.http.post("/predict", content=ROWS).status_code == 200
        for link in links[100:200]:
            link.sendall(ROWS[10:])
        # 503: on a busy machine not all of the hundred get a connection to the model server in time
        assert {_answers(link)[0][0] for link in links[100:200]} <= {200, 503}
        assert served.http.post("/predict", content=ROWS).status_code == 200
    finally:
        for link in links:
            link.close()


class _Broken:
    """A model server that gives each connection the next of some answers, byte for byte, and closes it."""

    def __init__(self, answers: list[bytes]) -> None:
        self._answers = answers
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            with link:
                link.recv(65536)
                link.sendall(self._answers[number % len(self._answers)])
            number += 1

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture
def broken() -> Iterator[Callable[..., _Broken]]:
    started: list[_Broken] = []

    def start(*answers: bytes) -> _Broken:
        started.append(_Broken(list(answers)))
        return started[-1]

    yield start
    for one in started:
        one.close()


def test_a_model_server_that_breaks_off_is_a_503_and_worth_a_retry(
    start_api: Callable[..., Api], broken: Callable[..., _Broken]
) -> None:
    server = broken(
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nff\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"\x15\x03\x01\x00\x02\x02",
        b"HTTP/1.1 999999 no\r\n\r\n",
    )
    api = start_api(serving_url=server.url, predict_timeout_seconds=20)
    for _ in range(12):
        answer = api.http.post("/predict", json={"model": "m", "version": 1, "instances": [1]})
        assert (answer.status_code, answer.json()["code"]) == (503, "serving_unavailable")
        assert answer.headers["retry-after"]
        passed = api.http.post("/v1/models/m/versions/1:predict", json={"instances": [1]})
        assert (passed.status_code, passed.headers["retry-after"]) == (503, answer.headers["retry-after"])


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n<p>x!",
        b"HTTP/1.1 200 OK\r\nX-Model-Version: 99999999999999999999999\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 200 OK\r\nX-Model-Version: new\r\nContent-Length: 2\r\n\r\n{}",
        b"HTTP/1.1 302 Found\r\nLocation: http://example.org/\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n[]",
        b"HTTP/1.1 418 Tea\r\nContent-Length: 1\r\n\r\n\xff",
    ],
)
def test_a_model_server_that_answers_nonsense_is_never_our_500(
    start_api: Callable[..., Api], broken: Callable[..., _Broken], answer: bytes
) -> None:
    api = start_api(serving_url=broken(answer).url)
    for body in ({"model": "m", "instances": [1]}, {"model": "m", "version": 1, "instances": [1]}):
        for accept in ("*/*", "application/x-npy"):
            found = api.http.post("/predict", json=body, headers={"Accept": accept})
            assert found.status_code != 500, found.text
    assert api.http.post("/v1/models/m:predict", json={}).status_code != 500


def test_a_model_server_that_never_answers_is_a_504_in_time(start_api: Callable[..., Api]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        api = start_api(serving_url=url, predict_timeout_seconds=0.5)
        began = time.monotonic()
        answer = api.http.post("/predict", json={"model": "m", "version": 1, "instances": [1]})
        assert (answer.status_code, answer.json()["code"]) == (504, "deadline_exceeded")
        assert api.http.post("/v1/models/m/versions/1:predict", json={}).status_code == 504
        assert time.monotonic() - began < PATIENCE
