"""The API among its dependencies: a real broker, outages, large bodies on real sockets, TensorBoard, nonsense."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.settings import Settings
from shared.store import migrate
from tests.builders import train_request
from tests.conftest import Broker, free_port
from tests.integration.api.conftest import Api, ModelServer, Running


def _until(check: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_everything_there_is_ready(api: Api, model_server: ModelServer) -> None:
    api.store.workers.beat("w", host="h", pid=1, slots=1, started_at=1.0, info={})
    health = api.http.get("/readyz").json()
    assert health["status"] == "ok", health
    assert health["checks"]["broker"]["queue_depth"] == 0


def test_load_balancers_may_ask_for_the_head_alone(api: Api) -> None:
    for path in ("/healthz", "/readyz"):
        answer = api.http.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


def test_an_accepted_job_is_on_the_queue(api: Api) -> None:
    for number in range(1, 4):
        api.http.post("/jobs", json=train_request())
        assert api.resources.queue.depth() == number
    assert "modelyard_queue_depth 3.0" in api.http.get("/metrics").text
    time.sleep(0.5)
    assert api.resources.queue.depth() == 3, "what was sent is not sent again"


def test_jobs_accepted_during_an_outage_of_the_broker_are_sent_after_it(api: Api, broker: Broker) -> None:
    broker.stop()
    began = time.monotonic()
    answers = [api.http.post("/jobs", json=train_request()) for _ in range(5)]
    assert {answer.status_code for answer in answers} == {202}
    assert time.monotonic() - began < 20
    assert api.http.get("/readyz").json()["status"] == "degraded"
    broker.start()
    _until(lambda: api.store.claims.unsent(older_than_seconds=0) == [])
    assert api.resources.queue.depth() == 5


def test_one_key_from_many_clients_at_once_makes_one_job(api: Api) -> None:
    with ThreadPoolExecutor(16) as pool:
        answers = list(
            pool.map(
                lambda _: api.http.post("/jobs", json=train_request(), headers={"Idempotency-Key": "k"}),
                range(64),
            )
        )
    assert {answer.status_code for answer in answers} == {202}
    assert len({answer.json()["id"] for answer in answers}) == 1
    assert api.resources.queue.depth() == 1


def _send_raw(api: Api, head: str, chunk: bytes, times: int) -> tuple[bytes, int]:
    """(answer, bytes sent) of a client that sends until it is answered."""
    sent = 0
    with socket.create_connection(("127.0.0.1", api.running.port), 10) as link:
        link.sendall(head.encode())
        link.settimeout(0.001)
        for _ in range(times):
            try:
                if answer := link.recv(65_536):
                    return answer, sent
            except TimeoutError:
                pass
            link.settimeout(10)
            link.sendall(chunk)
            sent += len(chunk)
            link.settimeout(0.001)
        link.settimeout(10)
        return link.recv(65_536), sent


def test_a_huge_declared_body_is_refused_before_it_is_sent(start_api: Callable[..., Api]) -> None:
    api = start_api()
    head = "POST /jobs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 209715200\r\n\r\n"
    began = time.monotonic()
    answer, sent = _send_raw(api, head, bytes(65_536), 3200)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b'"code":"too_large"' in answer
    assert b"connection: close" in answer
    assert sent < 5_000_000
    assert time.monotonic() - began < 10


def test_a_huge_chunked_body_is_refused_at_the_limit(start_api: Callable[..., Api]) -> None:
    api = start_api(max_body_mb=1)
    head = "POST /v1/models/m:predict HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    for path in ("/jobs", "/predict"):
        answer, sent = _send_raw(
            api, head.replace("/v1/models/m:predict", path), b"10000\r\n" + bytes(65_536) + b"\r\n", 3200
        )
        assert answer.startswith(b"HTTP/1.1 413 "), answer
        assert sent < 10_000_000


def test_clients_that_send_all_before_they_read_see_the_answer(start_api: Callable[..., Api]) -> None:
    api = start_api(max_body_mb=1, max_upload_mb=1)
    for path, headers in (("/jobs", {}), ("/datasets", {"Content-Type": "text/csv"}), ("/predict", {})):
        for content in (bytes(30 * 2**20), (bytes(2**20) for _ in range(30))):
            answer = api.http.post(path, content=content, headers=headers)
            assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    assert list(api.settings.paths.datasets.iterdir()) == []


def test_a_client_that_leaves_in_the_middle_leaves_nothing_behind(start_api: Callable[..., Api]) -> None:
    api = start_api()
    for path in ("/jobs", "/datasets", "/predict", "/v1/models/m:predict"):
        with socket.create_connection(("127.0.0.1", api.running.port), 10) as link:
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: text/csv\r\n"
            head += "Content-Length: 5000000\r\n\r\n"
            link.sendall(head.encode() + bytes(2_000_000))
    _until(lambda: list(api.settings.paths.datasets.iterdir()) == [])
    assert api.http.get("/healthz").status_code == 200
    assert 'status="500"' not in api.http.get("/metrics").text


def test_a_large_upload_does_not_fill_the_memory(start_api: Callable[..., Api]) -> None:
    import psutil

    api = start_api()
    head = b"a,b,c\n"
    rows = b"1.25,2.5,3\n" * 100_000
    me = psutil.Process()
    before = me.memory_info().rss
    peak = 0

    def body() -> Iterator[bytes]:
        nonlocal peak
        yield head
        for _ in range(20):
            yield rows
            peak = max(peak, me.memory_info().rss)

    answer = api.http.post("/datasets", content=body(), headers={"Content-Type": "text/csv"}, timeout=120)
    assert answer.status_code == 201, answer.text
    assert answer.json()["info"]["rows"] == 2_000_000
    assert peak - before < 12 * 2**20, "22 MB went through"


def test_tensorboard_is_passed_through(start_api: Callable[..., Api]) -> None:
    seen: list[tuple[str, str, bytes, dict[str, str]]] = []

    async def board(request: Request) -> Response:
        path = f"{request.scope['raw_path'].decode()}?{request.scope['query_string'].decode()}"
        seen.append((request.method, path, await request.body(), dict(request.headers)))
        return Response(b"\x1f\x8bgz", 201, {"Content-Encoding": "x-own", "Keep-Alive": "5"}, "text/x")

    running = Running(
        Starlette(routes=[Route("/tensorboard/{p:path}", board, methods=["GET", "POST"])])
    ).start()
    try:
        api = start_api(tensorboard_url=running.url)
        with api.http.stream(
            "GET", "/tensorboard/data/plugin/x%2Fy?run=a%20b&tag=c", headers={"TE": "x"}
        ) as answer:
            assert answer.status_code == 201
            assert b"".join(answer.iter_raw()) == b"\x1f\x8bgz"
            assert answer.headers["content-encoding"] == "x-own"
            assert "keep-alive" not in answer.headers
        api.http.post("/tensorboard/data/x", content=b"body")
        with httpx.Client() as bare:
            bare.headers.pop("accept-encoding")
            bare.get(f"{api.url}/tensorboard/")
        assert api.http.put("/tensorboard/").status_code == 405
    finally:
        running.stop()
    assert [entry[:3] for entry in seen] == [
        ("GET", "/tensorboard/data/plugin/x%2Fy?run=a%20b&tag=c", b""),
        ("POST", "/tensorboard/data/x?", b"body"),
        ("GET", "/tensorboard/?", b""),
    ]
    assert "te" not in seen[0][3]
    assert seen[2][3]["accept-encoding"] == "identity"
    down = api.http.get("/tensorboard/")
    assert (down.status_code, down.json()["code"]) == (503, "tensorboard_unavailable")


# --- nonsense -----------------------------------------------------------------------------------------------------

_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=20),
)
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=10,
)


@st.composite
def _almost_jobs(draw: st.DrawFn) -> Any:
    """A valid job with a few things in it replaced by nonsense."""
    job: Any = train_request(publish={"model": "m", "label": "x"}, labels={"a": "b"}, name="n")
    for _ in range(draw(st.integers(1, 3))):
        place = job
        while True:
            key = draw(st.sampled_from([*sorted(place), "new"]))
            if isinstance(place.get(key), dict) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            place[key] = draw(_JSON)
            break
    return job


@pytest.fixture(params=["sqlite", "postgresql"])
def fuzzed(request: pytest.FixtureRequest, start_api: Callable[..., Api]) -> Api:
    """On both databases, since PostgreSQL refuses texts that SQLite takes."""
    if request.param == "sqlite":
        return start_api()
    return start_api(database_url=request.getfixturevalue("migrated_postgres_url"))


_FUZZ = settings(
    max_examples=150,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    database=None,
)


@_FUZZ
@given(body=_almost_jobs() | _JSON, path=st.sampled_from(["/jobs", "/jobs?dry_run=1", "/predict"]))
def test_no_json_breaks_the_server(fuzzed: Api, body: Any, path: str) -> None:
    answer = fuzzed.http.post(
        path, content=json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")
    )
    assert answer.status_code in (200, 202, 400, 404, 422, 503), answer.text
    if answer.status_code == 503:
        assert path == "/predict", "there is no model server here"


@_FUZZ
@given(
    path=st.sampled_from(["/jobs/{}", "/models/{}", "/models/m/versions/{}", "/datasets/{}", "/models/m/labels/{}",
                          "/jobs?after={}", "/jobs?label={}", "/jobs?label=a={}", "/jobs?model={}", "/{}",
                          "/v1/models/{}", "/v1/models/m/labels/{}:predict", "/models?after={}",
                          "/jobs/job_0000000000000000000000/metrics?names={}"]),
    text=st.text(st.characters(codec="utf-8"), min_size=1, max_size=30),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
)  # fmt: skip
def test_no_path_breaks_the_server(fuzzed: Api, path: str, text: str, method: str) -> None:
    from urllib.parse import quote

    answer = fuzzed.http.request(method, path.format(quote(text, safe="")), content=b"{}")
    assert answer.status_code != 500, answer.text


@_FUZZ
@given(body=st.binary(max_size=300), path=st.sampled_from(["/jobs", "/predict", "/datasets"]))
def test_no_bytes_break_the_server(fuzzed: Api, body: bytes, path: str) -> None:
    for content_type in ("application/json", "text/csv", "multipart/form-data; boundary=b"):
        answer = fuzzed.http.post(path, content=body, headers={"Content-Type": content_type})
        assert answer.status_code < 500, answer.text


# --- the process --------------------------------------------------------------------------------------------------


def test_the_process_starts_answers_and_stops(tmp_path: Path) -> None:
    port = free_port()
    env = {
        "MODELYARD_HOME": str(tmp_path),
        "MODELYARD_PORT": str(port),
        "MODELYARD_BROKER_URL": "redis://127.0.0.1:1/0",
    }
    migrate(Settings(home=tmp_path).store_url)
    with subprocess.Popen(
        [sys.executable, "-m", "services.api"], env=env, stderr=subprocess.PIPE, text=True
    ) as process:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:

            def up() -> bool:
                try:
                    return client.get("/healthz").is_success
                except httpx.TransportError:
                    return False

            _until(up, 20)
            job = client.post("/jobs", json=train_request()).json()
            with client.stream(
                "GET", f"/jobs/{job['id']}/events", headers={"Accept": "text/event-stream"}
            ) as live:
                events = live.iter_lines()
                next(events)
                began = time.monotonic()
                process.send_signal(signal.SIGTERM)
                assert "event: end" not in list(events)
        assert process.wait(10) == 0
        assert time.monotonic() - began < 10, "a live stream does not hold up the end"
        assert process.stderr is not None
        log = process.stderr.read().splitlines()
    assert any("POST /jobs 202" in line for line in log)
    assert all(line.startswith(("INFO ", "WARNING ")) for line in log), log


def test_wrong_usage_is_said_so() -> None:
    run = subprocess.run([sys.executable, "-m", "services.api", "what"], capture_output=True, check=False)
    assert run.returncode == 2
    assert b"usage" in run.stderr
