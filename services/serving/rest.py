"""The HTTP side: an ASGI application that maps requests to the dataplane and errors to status codes.

Raw ASGI, no framework: the routes are few and their matching rules are TensorFlow Serving's own. Predictions run
in a small thread pool, so that health checks and status are answered during long ones.
"""

from __future__ import annotations

import asyncio
import logging
import re
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http import HTTPStatus
from typing import Any

import orjson

from services.serving.dataplane import Dataplane
from services.serving.errors import Code, ServingError, invalid_argument
from services.serving.first_loads import FirstLoads
from services.serving.json_echo import quote
from services.serving.npy import NPY
from services.serving.packing import PACKED, WORTH_PACKING, pack, takes_gzip
from services.serving.plain_predict import Answer
from services.serving.quick import JSON_TYPE, NPY_TYPE, QuickPredictions
from services.serving.routes import Route, VersionTooLarge, parse_route
from services.serving.telemetry import Telemetry
from services.serving.trace import Trace

log = logging.getLogger("serving.rest")

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

HTTP_STATUS: Mapping[Code, int] = {
    Code.OK: 200,
    Code.CANCELLED: 499,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}
_INFLATED_LIMIT = 100 * 2**20
CORS: Headers = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
]
# libevent's pages, as TensorFlow Serving's HTTP library sends them.
_PAGE = "<HTML><HEAD>\n<TITLE>{} {}</TITLE>\n</HEAD><BODY>\n<H1>{}</H1>\n</BODY></HTML>\n"
_HTML = (b"content-type", b"text/html")
# Those that the library knows; others don't reach TensorFlow Serving.
_METHODS = frozenset({"GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"})
_ORIGIN = re.compile(rb"https?://")


class RestApp:
    """The ASGI application.

    ``is_ready`` says whether the models on disk have been looked for; ``/readyz`` also waits for their first loads.
    ``metrics_path`` is where the metrics are; None: nowhere. ``as_tensorflow_serving``: ``GET /v1/models`` is an
    error, as there; ``/models`` lists the models in any case. ``first_loads``: what requests wait for at the start.
    """

    def __init__(
        self,
        dataplane: Dataplane,
        *,
        is_ready: Callable[[], bool],
        threads: int,
        cors: bool = False,
        telemetry: Telemetry | None = None,
        metrics_path: str | None = None,
        as_tensorflow_serving: bool = False,
        first_loads: FirstLoads | None = None,
    ) -> None:
        self._dataplane = dataplane
        self._telemetry = telemetry or Telemetry()
        self._metrics_path = metrics_path
        self._is_ready = is_ready
        self._first_loads = first_loads
        self._as_tensorflow_serving = as_tensorflow_serving
        self._cors = CORS if cors else []
        # For the connections: what needs no more than this is answered without coming here.
        self.quick = (
            None
            if dataplane.plain is None
            else QuickPredictions(dataplane.plain, self._telemetry, self._cors)
        )
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="predict")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served here")
        path = _path(scope)
        method: str = scope["method"]
        if method not in _METHODS:
            await _respond(send, 501, _page(HTTPStatus.NOT_IMPLEMENTED), [_HTML])
        elif path[:4].lower() == "/v1/":
            await self._v1(method, path, scope["headers"], receive, send)
        elif path == "/models" and method in ("GET", "HEAD"):
            await _respond(send, 200, _indented(self._dataplane.models()), [JSON_TYPE, _ACCEPT_POST])
        elif path in ("/healthz", "/readyz") and method in ("GET", "HEAD"):
            status, body = (200, {"status": "ok"}) if path == "/healthz" else self._readiness()
            await _respond(send, status, orjson.dumps(body), [JSON_TYPE, _ACCEPT_POST])
        elif self._metrics_path is not None and path.partition("?")[0] == self._metrics_path:
            await self._metrics(path, send)
        else:
            await _respond(send, 404, _page(HTTPStatus.NOT_FOUND), [_HTML])

    def _readiness(self) -> tuple[int, dict[str, Any]]:
        settled = dict(self._dataplane.settled())
        ready = self._is_ready() and all(settled.values())
        waiting = [name for name, done in settled.items() if not done]
        return (200 if ready else 503), {"ready": ready, "loading": waiting}

    async def _v1(self, method: str, path: str, headers: Headers, receive: Receive, send: Send) -> None:
        if method == "OPTIONS":
            origin = next((value for name, value in headers if name == b"origin"), b"")
            await _respond(send, 200 if _ORIGIN.search(origin) else 400, b"", self._cors)
            return
        request_id = next((value for name, value in headers if name == b"x-request-id"), b"")
        trace = Trace("REST", "", request_id=request_id.decode("latin-1"))
        own = [JSON_TYPE, *self._cors]
        if request_id:
            own.append((b"x-request-id", request_id))
        code, answer = Code.OK, b""
        try:
            status = 200
            answer = await self._answer(method, path, headers, receive, trace)
            if trace.api in _POOLED:
                own.append((b"x-model-version", b"%d" % (trace.version or 0)))
                if trace.binary:
                    own[0] = NPY_TYPE
            else:
                own.append(_ACCEPT_POST)
        except VersionTooLarge:
            status, code = 400, Code.INVALID_ARGUMENT
        except ServingError as error:
            status, code, answer = HTTP_STATUS[error.code], error.code, _error_body(error.message)
        except Exception as error:
            log.exception("%s %s failed", method, path)
            status, code, answer = 500, Code.INTERNAL, _error_body(f"{type(error).__name__}: {error}")
        if len(answer) >= WORTH_PACKING and takes_gzip(headers):
            answer = await asyncio.get_running_loop().run_in_executor(self._pool, pack, answer)
            own += PACKED
        # Before the answer goes out, so that whoever has it finds it counted.
        self._telemetry.finish(trace, code, len(answer))
        await _respond(send, status, answer, own)

    async def _answer(
        self, method: str, path: str, headers: Headers, receive: Receive, trace: Trace
    ) -> bytes:
        as_npy = _header(headers, b"content-type").partition(b";")[0].strip().lower() == NPY
        path, _, query = path.partition("?") if as_npy else (path, "", "")
        route = parse_route(method, path)
        trace.api, trace.model = route.verb, route.target.model
        if self._first_loads is not None and not self._first_loads.over(trace.model):
            await self._first_loads.wait(trace.model)
        if route.verb not in _POOLED:
            return self._look_up(route)
        body = await _read(receive)
        trace.request_bytes = len(body)
        if as_npy and route.verb == "predict":
            return await self._npy(route, body, query, headers, trace)
        return (await self._in_pool(route, body, headers, trace)).body

    async def _npy(self, route: Route, body: bytes, query: str, headers: Headers, trace: Trace) -> bytes:
        """A predict request in binary: an answer of that kind too, if it is asked for."""
        accepted = NPY in _header(headers, b"accept")
        call = partial(self._dataplane.npy, route.target, query=query, trace=trace, as_npy=accepted)
        loop = asyncio.get_running_loop()
        answer = await loop.run_in_executor(self._pool, lambda: call(body=_inflate(body, headers)))
        assert answer is not None  # noqa: S101 - only a quick call may have none
        if accepted:
            trace.binary = True
        return answer.body

    async def _metrics(self, path: str, send: Send) -> None:
        if path != self._metrics_path:  # it has a query
            text = f"Unexpected path: {path}. Should be {self._metrics_path}"
            await _respond(send, 400, text.encode("latin-1"), [_TEXT])
        else:
            await _respond(send, 200, self._telemetry.render(), [_TEXT])

    def _look_up(self, route: Route) -> bytes:
        if route.verb == "list":
            if self._as_tensorflow_serving:
                raise invalid_argument("Missing model name in request.")
            found = self._dataplane.models()
        elif route.verb == "metadata":
            found = self._dataplane.metadata(route.target)
        else:
            found = self._dataplane.status(route.target)
        return _indented(found)

    async def _in_pool(self, route: Route, body: bytes, headers: Headers, trace: Trace) -> Answer:
        plane = self._dataplane
        call = {"predict": plane.predict, "classify": plane.classify, "regress": plane.regress}[route.verb]

        def answer() -> Answer:
            return call(route.target, _inflate(body, headers), trace)

        return await asyncio.get_running_loop().run_in_executor(self._pool, answer)

    def stop_waiting(self) -> None:
        """Let requests that wait for a model's first load go on: the server ends."""
        if self._first_loads is not None:
            self._first_loads.stop()

    def close(self) -> None:
        """Start no more predictions; those that run are not waited for (the HTTP server has done that)."""
        self._pool.shutdown(wait=False, cancel_futures=True)


# What predict requests may be made of (the header's own meaning), said where a client looks before it sends one.
_ACCEPT_POST = (b"accept-post", b"application/json, " + NPY)
_TEXT = (b"content-type", b"text/plain")
_POOLED = frozenset({"predict", "classify", "regress"})


def _path(scope: Scope) -> str:
    """The raw path, because names may hold an encoded slash; with the query, which the patterns then refuse."""
    target: bytes = scope.get("target", b"")
    if target[:1] != b"/":  # the whole URL, or another server than ours
        query: bytes = scope["query_string"]
        target = scope["raw_path"] + (b"?" + query if query else b"")
    return target.decode("latin-1")


def _page(status: HTTPStatus) -> bytes:
    return _PAGE.format(status.value, status.phrase, status.phrase).encode()


def _indented(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_INDENT_2)


def _error_body(message: str) -> bytes:
    return f'{{\n    "error": {quote(message)}\n}}'.encode("utf-8", "surrogateescape")


async def _read(receive: Receive) -> bytes:
    parts: list[bytes] = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ServingError(Code.CANCELLED, "The client has gone away")
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return parts[0] if len(parts) == 1 else b"".join(parts)


def _header(headers: Headers, wanted: bytes) -> bytes:
    return next((value for name, value in headers if name == wanted), b"")


def _is_gzip(headers: Headers) -> bool:
    return any(name == b"content-encoding" and b"gzip" in value for name, value in headers)


def _inflate(body: bytes, headers: Headers) -> bytes:
    """The body without its gzip coding. A broken or oversized one is an empty body, as in TensorFlow Serving."""
    if not _is_gzip(headers):
        return body
    inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
    try:
        plain = inflater.decompress(body, _INFLATED_LIMIT)
    except zlib.error:
        return b""
    return plain if inflater.eof and not inflater.unused_data else b""


async def _respond(send: Send, status: int, body: bytes, headers: Headers) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [*headers, length]})
    await send({"type": "http.response.body", "body": body})
