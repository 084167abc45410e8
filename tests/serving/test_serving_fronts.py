"""The processes that answer predictions on LiteRT: what a client sees must not tell which process it was."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import psutil
import pytest

if TYPE_CHECKING:
    from conftest import Publish, Server, StartServer

pytestmark = [
    pytest.mark.tf,
    pytest.mark.skipif(
        not hasattr(socket, "SOCK_SEQPACKET"), reason="needs sockets that keep messages whole"
    ),
]

ROWS = {"instances": [[1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 0.0]]}
KERNEL = np.arange(12.0).reshape(4, 3) / 10
ANSWER = np.maximum(np.array(ROWS["instances"]) @ KERNEL + 0.5, 0)


def _until(seen: Callable[[], Any], seconds: float = 60) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := seen()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return found


def _fronts(server: Server) -> list[psutil.Process]:
    found = []
    for one in psutil.Process(server.process.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):  # or ended, and not waited for
            if "services.serving.front" in one.cmdline():
                found.append(one)
    return found


def _owner(server: Server, client: httpx.Client) -> int:
    """The process that has the client's (only) connection."""
    stream = client._transport._pool.connections[0]._connection._network_stream  # type: ignore[attr-defined]
    own = stream.get_extra_info("client_addr")[1]

    def look() -> int | None:
        for process in (psutil.Process(server.process.pid), *_fronts(server)):
            if any(one.raddr and one.raddr.port == own for one in process.net_connections("tcp")):
                return process.pid
        return None  # on its way

    return int(_until(look))


@contextmanager
def _client(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def models(exports: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fronts")
    shutil.copytree(exports / "proven_litert", folder / "quick" / "1")
    shutil.copytree(exports / "half_plus_two", folder / "slow" / "1")
    return folder


@pytest.fixture(scope="module")
def running(models: Path, start_server: StartServer) -> Iterator[Server]:
    monitoring = models.parent / "fronts-monitoring.config"
    monitoring.write_text('prometheus_config { enable: true path: "/metrics" }')
    with start_server(
        f"--models_dir={models}",
        "--rest_api_processes=2",
        "--rest_api_enable_cors_support",
        f"--monitoring_config_file={monitoring}",
        f"--request_log={models.parent / 'fronts.log'}",
    ) as server:
        server.wait_for("quick", 1)
        server.wait_for("slow", 1)
        server.request_log = models.parent / "fronts.log"
        _until_quick(server)
        yield server


def _until_quick(server: Server) -> None:
    """All fronts answer."""

    def answer() -> bool:
        owners = set()
        for _ in range(4):
            with _client(server) as client:
                assert client.post("/v1/models/quick:predict", json=ROWS).status_code == 200
                owners.add(_owner(server, client))
        return owners == {one.pid for one in _fronts(server)}

    _until(answer)


def _predict(client: httpx.Client, where: str = "", **headers: str) -> httpx.Response:
    return client.post(f"/v1/models/quick{where}:predict", json=ROWS, headers=headers)


def test_connections_are_spread_evenly(running: Server) -> None:
    clients = [httpx.Client(base_url=running.url, timeout=60) for _ in range(8)]
    for client in clients:
        assert _predict(client).status_code == 200
    owners = [_owner(running, client) for client in clients]
    assert sorted(owners.count(one.pid) for one in _fronts(running)) == [4, 4]
    for client in clients:
        client.close()


def test_an_answer_is_the_same_in_all_processes(running: Server) -> None:
    # what a front can't do is done by the server's own process: here, for a body that is written unusually
    plain = json.dumps(ROWS)
    unusual = plain.replace('"instances"', '"\\u0069nstances"')
    for accept in ("identity", "gzip"):
        answers = []
        for body in (plain, unusual):
            with _client(running) as client:
                headers = {"X-Request-Id": "r1", "Accept-Encoding": accept}
                answers.append(client.post("/v1/models/quick:predict", content=body, headers=headers))
                own = _owner(running, client) == running.process.pid
                assert own == (body is unusual)
        one, other = answers
        np.testing.assert_allclose(one.json()["predictions"], ANSWER, atol=1e-5)
        assert one.content == other.content
        assert [pair for pair in one.headers.raw if pair[0] != b"date"] == [
            pair for pair in other.headers.raw if pair[0] != b"date"
        ]
        assert one.headers["x-model-version"] == "1"
        assert one.headers["access-control-allow-origin"] == "*"
        assert one.headers["x-request-id"] == "r1"
        assert "date" in one.headers


@pytest.mark.parametrize("rows", [60, 4000])
def test_long_answers_are_packed_for_who_asks(running: Server, rows: int) -> None:
    body = {"instances": [[0.1 * row, 0.3, 0.7, 1.1] for row in range(rows)]}
    answers = []
    for accept in ("identity", "gzip"):
        with _client(running) as client:
            answer = client.post("/v1/models/quick:predict", json=body, headers={"Accept-Encoding": accept})
            assert answer.status_code == 200
            assert answer.headers.get("content-encoding", "identity") == (
                accept if rows > 1000 else "identity"
            )
            answers.append(answer.content)
    assert answers[0] == answers[1]


def test_a_connection_may_ask_for_anything_in_any_order(running: Server) -> None:
    npy = io.BytesIO()
    np.save(npy, np.array(ROWS["instances"], np.float32))
    binary = {"content-type": "application/x-npy"}
    asks: list[tuple[Callable[[httpx.Client], httpx.Response], int]] = [
        (_predict, 200),
        (lambda c: c.get("/v1/models/quick"), 200),
        (lambda c: c.get("/v1/models/quick/metadata"), 200),
        (lambda c: _predict(c, "/versions/1"), 200),
        (lambda c: _predict(c, "/versions/7"), 404),
        (lambda c: _predict(c, "/labels/none"), 400),
        (lambda c: c.post("/v1/models/quick:predict", json={"instances": [[1.0]]}), 400),
        (lambda c: c.post("/v1/models/quick:predict", content=b"{"), 400),
        (lambda c: c.post("/v1/models/nobody:predict", json=ROWS), 404),
        (lambda c: c.post("/v1/models/slow:predict", json={"instances": [1.0]}), 200),
        (lambda c: c.post("/v1/models/quick:predict", content=npy.getvalue(), headers=binary), 200),
        (lambda c: c.post("/v1/models/quick:predict?input=no", content=npy.getvalue(), headers=binary), 400),
        (lambda c: c.head("/healthz"), 200),
        (lambda c: c.options("/v1/models/quick:predict", headers={"origin": "http://x"}), 200),
        (
            lambda c: c.post(
                "/v1/models/quick:predict",
                content=gzip.compress(json.dumps(ROWS).encode()),
                headers={"content-encoding": "gzip"},
            ),
            200,
        ),
        (lambda c: c.post("/v1/models/quick:predict", content=iter([json.dumps(ROWS).encode()])), 200),
        (lambda c: c.post("/v1/models/quick:predict", json={"instances": ROWS["instances"] * 20_000}), 200),
        (lambda c: c.post("/v1/models/quick:predict", json={"instances": ROWS["instances"] * 80}), 200),
        (lambda c: _predict(c, connection="close"), 200),
    ]
    order = np.random.default_rng(0)
    for _ in range(10):
        with _client(running) as client:
            for index in order.permutation(len(asks)):
                ask, status = asks[index]
                answer = ask(client)
                assert answer.status_code == status, (index, answer.text)
                if answer.status_code == 200 and b"predictions" in answer.content and index < 9:
                    np.testing.assert_allclose(answer.json()["predictions"], ANSWER, atol=1e-5)


def test_requests_sent_at_once_are_answered_in_their_order(running: Server) -> None:
    body = json.dumps(ROWS).encode()
    predict = b"POST /v1/models/quick%s:predict HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s"
    status = b"GET /v1/models/quick HTTP/1.1\r\n\r\n"
    host, port = running.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as client:
        whole = predict % (b"", len(body), body) + status + predict % (b"/versions/1", len(body), body)
        client.sendall(whole * 20)
        file = client.makefile("rb")
        for _ in range(20):
            for key in (b"predictions", b"model_version_status", b"predictions"):
                assert file.readline() == b"HTTP/1.1 200 OK\r\n"
                headers = dict(line.rstrip().split(b": ", 1) for line in iter(file.readline, b"\r\n"))
                assert key in file.read(int(headers[b"content-length"]))
        file.close()


def test_a_connection_comes_back_to_where_it_was_of_use(running: Server) -> None:
    with _client(running) as client:
        _predict(client)
        fronts = {one.pid for one in _fronts(running)}
        assert _owner(running, client) in fronts
        client.get("/v1/models/quick")
        _until(lambda: _owner(running, client) in fronts)
        assert _predict(client).status_code == 200
    with _client(running) as client:  # not for a model that is not there
        for _ in range(3):
            client.post("/v1/models/slow:predict", json={"instances": [1.0]})
        assert _owner(running, client) == running.process.pid


def test_all_requests_are_counted_and_logged(running: Server) -> None:
    own = (
        'modelyard_serving_requests_total{model="quick",version="1",signature="serving_default",api="predict"'
    )
    theirs = ':tensorflow:serving:request_latency_count{model_name="quick",API="predict",entrypoint="REST"}'

    def count() -> list[float]:
        lines = running.client.get("/metrics").text.splitlines()
        return [
            sum(float(line.split()[-1]) for line in lines if line.startswith(name) and part in line)
            for name, part in ((own, 'status="OK"'), (theirs, ""))
        ]

    before = count()
    clients = [httpx.Client(base_url=running.url, timeout=60) for _ in range(4)]
    for number in range(100):
        assert _predict(clients[number % 4], **{"x-request-id": f"counted-{number}"}).status_code == 200
    assert count() == [one + 100 for one in before]
    assert running.request_log is not None
    entries = [json.loads(line) for line in running.request_log.read_text().splitlines()]
    ids = [one["request_id"] for one in entries if one["request_id"].startswith("counted-")]
    assert sorted(ids) == sorted(f"counted-{number}" for number in range(100))
    for client in clients:
        client.close()


def test_a_front_that_is_killed_takes_only_its_own_requests_along(running: Server) -> None:
    failed: list[Exception] = []
    answered = [0] * 4
    over = threading.Event()

    def ask(place: int) -> None:
        client = httpx.Client(base_url=running.url, timeout=60)
        while not over.is_set():
            try:
                assert _predict(client).status_code == 200
                answered[place] += 1
            except httpx.TransportError as error:
                failed.append(error)
                client.close()
                del error
                client = httpx.Client(base_url=running.url, timeout=60)
        client.close()

    threads = [threading.Thread(target=ask, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    _until(lambda: min(answered) > 20)
    victim = _fronts(running)[0]
    victim.kill()
    _until(lambda: len(_fronts(running)) == 2 and victim.pid not in {one.pid for one in _fronts(running)})
    since = list(answered)
    _until(lambda: all(now > then + 20 for now, then in zip(answered, since, strict=True)))
    over.set()
    for thread in threads:
        thread.join()
    assert len(failed) <= 4, failed
    _until_quick(running)
    assert any("has ended (-9)" in line for line in running.log)


def test_a_front_that_hangs_is_replaced(running: Server) -> None:
    victim = _fronts(running)[0]
    victim.suspend()
    assert running.client.get("/metrics").status_code == 200  # which asks all of them
    _until(lambda: victim.pid not in {one.pid for one in _fronts(running)} and len(_fronts(running)) == 2)
    _until_quick(running)


def test_versions_come_and_go_as_their_status_says(
    start_server: StartServer, publish: Publish, tmp_path: Path
) -> None:
    publish("proven_litert", tmp_path / "m" / "1")
    with start_server(f"--models_dir={tmp_path}", "--rest_api_processes=2") as server:
        server.wait_for("m", 1)
        _until(lambda: len(_fronts(server)) == 2)
        clients = [httpx.Client(base_url=server.url, timeout=60) for _ in range(6)]
        ask = [lambda c=client: c.post("/v1/models/m:predict", json=ROWS) for client in clients]  # type: ignore[misc]
        _until(lambda: all(one().status_code == 200 for one in ask))
        for version in (2, 3, 4):
            publish("proven_litert", tmp_path / "m" / str(version))
            server.wait_for("m", version)
            assert {one().headers["x-model-version"] for one in ask} == {str(version)}
            server.wait_for("m", version - 1, "END")
            old = [
                client.post(f"/v1/models/m/versions/{version - 1}:predict", json=ROWS).status_code
                for client in clients
            ]
            assert old == [404] * 6
        publish("proven_litert", tmp_path / "m" / "3.new")  # not a version
        shutil.rmtree(tmp_path / "m" / "4")  # a rollback: 3 is loaded again
        _until(lambda: server.versions("m").get(3) == "AVAILABLE" and server.versions("m")[4] == "END")
        assert {one().headers["x-model-version"] for one in ask} == {"3"}
        shutil.rmtree(tmp_path / "m")
        _until(lambda: [one().status_code for one in ask] == [404] * 6)
        for client in clients:
            client.close()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_fronts_end_with_the_server(
    start_server: StartServer, publish: Publish, tmp_path: Path, number: int
) -> None:
    publish("proven_litert", tmp_path / "m" / "1")
    with start_server(f"--models_dir={tmp_path}", "--rest_api_processes=2") as server:
        server.wait_for("m", 1)
        fronts = _until(lambda: found if len(found := _fronts(server)) == 2 else None)
        assert server.predict("m", ROWS).status_code == 200
        os.kill(server.process.pid, number)
        assert server.process.wait(30) == (0 if number == signal.SIGTERM else -9)
        _, left = psutil.wait_procs(fronts, timeout=30)
        assert not left


@pytest.mark.parametrize("flag", ["--rest_api_processes=0", "--rest_api_reuse_port", "--enable_batching"])
def test_there_are_none_where_none_are_wanted(
    start_server: StartServer, publish: Publish, tmp_path: Path, flag: str
) -> None:
    publish("proven_litert", tmp_path / "m" / "1")
    with start_server(f"--models_dir={tmp_path}", flag) as server:
        server.wait_for("m", 1)
        assert server.predict("m", ROWS).status_code == 200
        assert not _fronts(server)
