"""The API as a real server in a thread, on SQLite, a real Valkey, and a model server that says what a test wants."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import uvicorn
from redis import Redis
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from services.api.app import create_app
from services.api.resources import Resources
from shared.settings import Settings
from shared.store import Publication, Store, migrate
from shared.wire.uvicorn_wire import Wire
from tests.builders import migrated, train_spec
from tests.conftest import Broker, free_port

Serve = Callable[[Request], Awaitable[Response]]


def all_to(serve: Serve) -> Starlette:
    """An application that gives every request to ``serve``."""
    return Starlette(routes=[Route("/{path:path}", serve, methods=["GET", "POST", "DELETE", "PUT"])])


class Running:
    """An ASGI application on a port of its own, served by a thread."""

    def __init__(self, app: Any, port: int | None = None) -> None:
        self.app = app
        self.port = port or free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            app, host="127.0.0.1", port=self.port, access_log=False, log_config=None, ws="none",
            http=cast(Any, Wire),
            timeout_graceful_shutdown=1,
        )  # fmt: skip
        self.server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self.server.run)

    def start(self) -> Running:
        self._thread.start()
        deadline = time.monotonic() + 10
        while not self.server.started:
            assert self._thread.is_alive(), "the server did not start"
            assert time.monotonic() < deadline
            time.sleep(0.005)
        return self

    def stop(self) -> None:
        resources = getattr(getattr(self.app, "state", None), "resources", None)
        if resources is not None:
            resources.watch.close()
        self.server.should_exit = True
        self._thread.join(10)
        assert not self._thread.is_alive()


@dataclass
class ModelServer:
    """Speaks TensorFlow Serving's REST API; ``states`` is model -> version -> state."""

    states: dict[str, dict[int, str]] = field(default_factory=dict)
    names_its_version: bool = True
    takes_npy: bool = False
    requests: list[tuple[str, str, bytes]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    answer: Callable[[dict[str, Any]], Response] | None = None

    def app(self) -> Starlette:
        return all_to(self.serve)

    async def serve(self, request: Request) -> Response:
        body = await request.body()
        path = request.scope["raw_path"].decode()
        if request.scope["query_string"]:
            path += "?" + request.scope["query_string"].decode()
        self.requests.append((request.method, path, body))
        self.headers.append(dict(request.headers))
        if path == "/healthz":
            return Response(
                headers={"Accept-Post": "application/json, application/x-npy"} if self.takes_npy else {}
            )
        name, _, rest = request.scope["path"].removeprefix("/v1/models/").partition("/")
        name, _, verb = name.partition(":")
        if request.method in ("GET", "HEAD"):
            return self._status(name)
        version: int | None = None
        if rest.startswith("versions/"):
            number, _, verb = rest.removeprefix("versions/").partition(":")
            version = int(number)
        if verb == "echo":
            return StreamingResponse(
                _pieces(body),
                299,
                {"X-Own": "1", "Connection": "X-Drop", "X-Drop": "1"},
                "application/x-echo",
            )
        available = [number for number, state in self.states.get(name, {}).items() if state == "AVAILABLE"]
        if not available or (version is not None and version not in available):
            return JSONResponse({"error": f"Servable not found for request: {name}"}, 404)
        if self.takes_npy and request.headers["content-type"] == "application/x-npy":
            return Response(
                body, 200, {"X-Model-Version": str(version or max(available))}, "application/x-npy"
            )
        try:
            asked = json.loads(body)
        except ValueError:
            return JSONResponse({"error": "JSON Parse error"}, 400)
        if self.answer is not None:
            return self.answer(asked)
        version = version or max(available)
        headers = {"X-Model-Version": str(version)} if self.names_its_version else {}
        if "inputs" in asked:
            return JSONResponse({"outputs": asked["inputs"]}, headers=headers)
        return JSONResponse({"predictions": [[float(version)] for _ in asked["instances"]]}, headers=headers)

    def _status(self, name: str) -> Response:
        if name not in self.states:
            return JSONResponse({"error": "Could not find any versions of model"}, 404)
        listed = [
            {"version": str(number), "state": state, "status": {"error_code": "OK", "error_message": ""}}
            for number, state in self.states[name].items()
        ]
        return JSONResponse({"model_version_status": listed})


async def _pieces(body: bytes) -> Any:
    for start in range(0, len(body), 1000):
        yield body[start : start + 1000]


@dataclass
class Api:
    """A running API with a client for it."""

    running: Running
    settings: Settings
    http: httpx.Client

    @property
    def url(self) -> str:
        return self.running.url

    @property
    def resources(self) -> Resources:
        found: Resources = self.running.app.state.resources
        return found

    @property
    def store(self) -> Store:
        return self.resources.store


@pytest.fixture
def start_api(tmp_path: Path) -> Iterator[Callable[..., Api]]:
    """Starts one with settings of the test's choice."""
    started: list[Api] = []

    def start(**changes: Any) -> Api:
        wanted = {
            "home": tmp_path / "home",
            "broker_url": "redis://127.0.0.1:1/0",
            "serving_url": "http://127.0.0.1:1",
            "sweep_seconds": 0.1,
            "metrics_kept_seconds": 0,
            "publish_timeout_seconds": 1.0,
            **changes,
        }
        settings = Settings(**wanted)
        if settings.database_url is None and not settings.paths.root.exists():
            migrated(settings.store_url)
        else:  # a second process on the same store, or another database
            migrate(settings.store_url)
        running = Running(create_app(settings)).start()
        api = Api(running, settings, httpx.Client(base_url=running.url, timeout=30))
        started.append(api)
        return api

    yield start
    for api in started:
        api.http.close()
        api.running.stop()


@pytest.fixture
def model_server() -> ModelServer:
    return ModelServer()


@pytest.fixture(scope="module")
def _served() -> Iterator[tuple[Running, list[ModelServer]]]:
    """A server of whichever model server is in the list: to start and stop one takes longer than most tests."""
    current: list[ModelServer] = []

    async def serve(request: Request) -> Response:
        return await current[0].serve(request)

    running = Running(all_to(serve)).start()
    yield running, current
    running.stop()


@pytest.fixture
def serving(_served: tuple[Running, list[ModelServer]], model_server: ModelServer) -> Running:
    """``model_server``, running. Tests that stop it run one of their own."""
    running, current = _served
    current[:] = [model_server]
    return running


@pytest.fixture(scope="session")
def _lasting_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    server = Broker(tmp_path_factory.mktemp("broker"))
    yield server
    server.stop()


@pytest.fixture
def broker(_lasting_broker: Broker) -> Broker:
    """A running and empty broker. A test may stop it: it is started again for the next one."""
    if _lasting_broker.process is None:
        _lasting_broker.start()
    with Redis.from_url(_lasting_broker.url) as client:
        client.flushall()
    return _lasting_broker


@pytest.fixture
def api(start_api: Callable[..., Api], broker: Broker, serving: Running) -> Api:
    """With everything there."""
    return start_api(broker_url=broker.url, serving_url=serving.url)


def publish(store: Store, model: str, signatures: dict[str, Any] | None = None) -> int:
    """Record the next version of a model, as a worker does."""
    job, _ = store.jobs.create(train_spec(publish={"model": model}))
    taken = store.claims.claim(job.id, "w", 60)
    assert taken is not None
    publication = Publication(10, {"accuracy": 0.9}, signatures or {}, ["a", "b"], {"job": job.id})
    return store.models.publish(taken[0], model, publication, place=lambda lowest: lowest)
