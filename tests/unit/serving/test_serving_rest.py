"""The ASGI application over a manager with fake servables: status codes, headers, and what is answered when."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from services.serving.dataplane import Dataplane
from services.serving.errors import Code
from services.serving.manager import ModelManager
from services.serving.rest import RestApp
from services.serving.telemetry import RequestLog, Telemetry
from services.serving.trace import Trace

if TYPE_CHECKING:
    from conftest import FakeLoader

PREDICT = "/v1/models/m:predict"
BODY = b'{"instances": [1.0, 2.0, 5.0]}'


class Client:
    """Sends one request at a time, or several at once, straight into the application."""

    def __init__(self, app: RestApp) -> None:
        self._app = app

    def send(self, method: str, path: str, **options: Any) -> httpx.Response:
        (response,) = self.send_all((method, path, options))
        return response

    def send_all(self, *requests: tuple[str, str, dict[str, Any]]) -> list[httpx.Response]:
        async def run() -> list[httpx.Response]:
            transport = httpx.ASGITransport(app=self._app)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
                return await asyncio.gather(
                    *(client.request(method, path, **options) for method, path, options in requests)
                )

        return asyncio.run(run())

    def post(self, path: str, body: bytes, **headers: str) -> httpx.Response:
        return self.send("POST", path, content=body, headers=headers)


@pytest.fixture
def app(manager: ModelManager, eventually: Callable[[Callable[[], bool]], None]) -> Iterator[RestApp]:
    app = RestApp(Dataplane(manager), is_ready=lambda: True, threads=2)
    manager.want("m", {7: "/m/7"}, {"stable": 7})
    eventually(lambda: manager.settled() == {"m": True})
    yield app
    app.close()


@pytest.fixture
def client(app: RestApp) -> Client:
    return Client(app)


@pytest.mark.parametrize(
    "path", [PREDICT, "/v1/models/m/versions/7:predict", "/v1/models/m/labels/stable:predict"]
)
def test_predict_names_its_version(client: Client, path: str) -> None:
    response = client.post(path, BODY)
    assert response.status_code == 200
    assert response.json() == {"predictions": [2.5, 3.0, 4.5]}
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-model-version"] == "7"


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        (
            "/v1/models/x:predict",
            b"{",
            400,
            "JSON Parse error: Missing a name for object member. at offset: 1",
        ),
        ("/v1/models/x:predict", b"[]", 400, "JSON Value: [] Is not object"),
        ("/v1/models/x:predict", b"{}", 404, "Servable not found for request: Latest(x)"),
        ("/v1/models/m/versions/8:predict", b"{}", 404, "Servable not found for request: Specific(m, 8)"),
        ("/v1/models/m/labels/z:predict", b"{}", 400, "Unrecognized servable version label: z"),
        (PREDICT, b"", 400, "JSON Parse error: The document is empty"),
        (PREDICT, b'{"signature_name": "s"}', 400, 'Serving signature name: "s" not found in signature def'),
        (PREDICT, b"{}", 400, "Missing 'inputs' or 'instances' key"),
        ("/v1/models/m/x:predict", b"{}", 400, "Malformed request: POST /v1/models/m/x:predict"),
        ("/v1/models/m:predict?a=b", b"{}", 400, "Malformed request: POST /v1/models/m:predict?a=b"),
    ],
)
def test_errors_come_in_order_and_with_their_status(
    client: Client, path: str, body: bytes, status: int, message: str
) -> None:
    response = client.post(path, body)
    assert response.status_code == status
    assert response.json() == {"error": message}
    assert response.headers["content-type"] == "application/json"
    assert "x-model-version" not in response.headers


def test_deep_nesting_is_a_client_error(client: Client) -> None:
    whole = b'{"instances":' + b"[" * 50_000 + b"]" * 50_000 + b"}"
    assert client.post(PREDICT, whole).status_code == 400


def test_status(client: Client) -> None:
    answer = {
        "model_version_status": [
            {"version": "7", "state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        ]
    }
    for path in ("/v1/models/m", "/v1/models/m/versions/7", "/v1/models/m/labels/unknown"):
        assert client.send("GET", path).json() == answer
    missing = client.send("GET", "/v1/models/x")
    assert (missing.status_code, missing.json()["error"]) == (404, "Could not find any versions of model x")
    assert client.send("GET", "/v1/models/m/versions/8").status_code == 404


def test_metadata(client: Client) -> None:
    assert client.send("GET", "/v1/models/m/labels/stable/metadata").json() == {
        "model_spec": {"name": "m", "signature_name": "", "version": "7"},
        "metadata": {"signature_def": {"signature_def": {"serving_default": {"method_name": "m"}}}},
    }
    assert client.send("GET", "/v1/models/m/labels/z/metadata").status_code == 400


def test_the_list_of_models(client: Client) -> None:
    assert client.send("GET", "/models").json() == client.send("GET", "/v1/models").json()
    assert client.send("GET", "/v1/models").json() == {
        "models": [
            {"name": "m", "version": "7", "available_versions": ["7"], "version_labels": {"stable": "7"}}
        ]
    }


def test_a_version_beyond_int64_has_an_empty_answer(client: Client) -> None:
    response = client.send("GET", "/v1/models/m/versions/99999999999999999999")
    assert (response.status_code, response.content) == (400, b"")


def test_other_paths_are_html_404(client: Client) -> None:
    for path in ("/", "/v2/models", "/monitoring/prometheus/metrics"):
        response = client.send("GET", path)
        assert (response.status_code, response.headers["content-type"]) == (404, "text/html")


def test_methods_that_the_http_library_does_not_know_are_html_501(client: Client) -> None:
    response = client.send("TRACE", "/v1/models/m")
    assert (response.status_code, response.headers["content-type"]) == (501, "text/html")
    assert response.text.startswith("<HTML><HEAD>\n<TITLE>501 Not Implemented</TITLE>")


def test_gzip_bodies(client: Client) -> None:
    encoding = {"content-encoding": "gzip"}
    good = client.send("POST", PREDICT, content=gzip.compress(BODY), headers=encoding)
    assert good.json() == {"predictions": [2.5, 3.0, 4.5]}
    for broken in (BODY, gzip.compress(BODY)[:-9], gzip.compress(b" " * (100 * 2**20 + 1), 1)):
        response = client.send("POST", PREDICT, content=broken, headers=encoding)
        assert response.json() == {"error": "JSON Parse error: The document is empty"}


def test_cross_origin_headers(manager: ModelManager, client: Client) -> None:
    origin = {"origin": "http://page"}
    off = client.send("OPTIONS", PREDICT, headers=origin)
    assert (off.status_code, off.content) == (200, b"")
    assert "access-control-allow-origin" not in off.headers
    assert client.send("OPTIONS", PREDICT).status_code == 400
    app = RestApp(Dataplane(manager), is_ready=lambda: True, threads=1, cors=True)
    for response in (
        Client(app).send("OPTIONS", PREDICT, headers=origin),
        Client(app).post("/v1/models/x:predict", b"{}"),
        Client(app).post(PREDICT, BODY),
    ):
        assert response.headers["access-control-allow-origin"] == "*"
        assert response.headers["access-control-allow-methods"] == "POST, GET"
        assert response.headers["access-control-allow-headers"] == "Content-Type"
    app.close()


def test_health_and_readiness(manager: ModelManager) -> None:
    looked = False
    app = RestApp(Dataplane(manager), is_ready=lambda: looked, threads=1)
    assert Client(app).send("GET", "/healthz").status_code == 200
    assert Client(app).send("GET", "/readyz").status_code == 503
    looked = True
    assert Client(app).send("GET", "/readyz").json() == {"ready": True, "loading": []}
    app.close()


def test_health_is_answered_during_long_predictions(client: Client, loader: FakeLoader) -> None:
    (servable,) = loader.loaded.values()
    servable.gate.clear()
    # More of them than there are threads; the health check's answer lets them go.
    transport_done: list[int] = []

    async def run() -> None:
        transport = httpx.ASGITransport(app=client._app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as http:
            slow = [asyncio.create_task(http.post(PREDICT, content=BODY)) for _ in range(4)]
            await asyncio.sleep(0.05)
            transport_done.append((await http.get("/healthz")).status_code)
            transport_done.append((await http.get("/v1/models/m")).status_code)
            assert not any(task.done() for task in slow)
            servable.gate.set()
            transport_done.extend(response.status_code for response in await asyncio.gather(*slow))

    asyncio.run(run())
    assert transport_done == [200] * 6


def test_requests_are_counted_and_written_down(manager: ModelManager, client: Client, tmp_path: Path) -> None:
    telemetry = Telemetry(RequestLog(tmp_path / "requests.log"))
    app = RestApp(
        Dataplane(manager),
        is_ready=lambda: True,
        threads=1,
        telemetry=telemetry,
        metrics_path="/some/metrics",
    )
    caller = Client(app)
    first = caller.post(PREDICT, BODY, **{"x-request-id": "abc"})
    assert first.headers["x-request-id"] == "abc"
    caller.post(PREDICT, b"{}")
    caller.post("/v1/models/stranger:predict", b"{}")
    caller.send("GET", "/v1/models/m")
    entries = [json.loads(line) for line in (tmp_path / "requests.log").read_text().splitlines()]
    assert all(entry.pop("time").endswith("+00:00") and entry.pop("latency_ms") >= 0 for entry in entries)
    assert entries[0] == {
        "entrypoint": "REST", "api": "predict", "model": "m", "version": 7, "signature": "serving_default",
        "request_bytes": len(BODY), "response_bytes": len(first.content), "status": "OK", "request_id": "abc",
    }  # fmt: skip
    assert [(entry["api"], entry["status"], entry["version"]) for entry in entries[1:]] == [
        ("predict", "INVALID_ARGUMENT", 7),
        ("predict", "NOT_FOUND", None),
        ("status", "OK", None),
    ]
    answer = caller.send("GET", "/some/metrics")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/plain")
    lines = answer.text.splitlines()
    assert "# TYPE :tensorflow:serving:request_count counter" in lines
    assert ':tensorflow:serving:request_count{model_name="m",status="OK"} 2' in lines
    assert ':tensorflow:serving:request_count{model_name="stranger",status="NOT_FOUND"} 1' in lines
    only_success = (
        ':tensorflow:serving:request_latency_count{model_name="m",API="predict",entrypoint="REST"} 1'
    )
    assert only_success in lines
    assert (
        'modelyard_serving_requests_total{model="m",version="7",signature="serving_default",api="predict"'
        ',entrypoint="REST",status="OK"} 1'
    ) in lines
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
    assert not any("HELP :" in line for line in lines)
    # What a client made up is no label of ours.
    assert not any("stranger" in line and "modelyard" in line for line in lines)
    assert caller.send("GET", "/some/metrics?x=1").status_code == 400
    assert client.send("GET", "/some/metrics").status_code == 404
    app.close()
    telemetry.close()


def test_a_request_log_may_be_moved_away(tmp_path: Path) -> None:
    written = RequestLog(tmp_path / "log")
    for _ in range(2):
        written.write(Trace("REST", "predict"), Code.OK, 0.001, 2)
        (tmp_path / "log").rename(tmp_path / "old")
        assert len((tmp_path / "old").read_text().splitlines()) == 1
    written.close()
