"""The HTTP side: an ASGI application that maps requests to the dataplane and errors to status codes.

Raw ASGI, no framework: the routes are few and their matching rules are TensorFlow Serving's own. Predictions run
in a small thread pool, so that health checks and status are answered during long ones.
"""

from __future__ import annotations

import asyncio
import gzip
import logging
import re
import zlib
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import orjson

from services.serving.dataplane import Answer, Dataplane
from services.serving.errors import Code, ServingError, invalid_argument
from services.serving.json_echo import quote
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
_CORS: Headers = [
    (b"access-control-allow-origin", b"*"),
    (b"access-control-allow-methods", b"POST, GET"),
    (b"access-control-allow-headers", b"Content-Type"),
]
# libevent's page, as TensorFlow Serving's HTTP library sends it.
_HTML_404 = b"<HTML><HEAD>\n<TITLE>404 Not Found</TITLE>\n</HEAD><BODY>\n<H1>Not Found</H1>\n</BODY></HTML>\n"
_ORIGIN = re.compile(rb"https?://")


class RestApp:
    """The ASGI application.

    ``is_ready`` says whether the models on disk have been looked for; ``/readyz`` also waits for their first loads.
    ``metrics_path`` is where the metrics are; None: nowhere. ``as_tensorflow_serving``: ``GET /v1/models`` is an
    error, as there; ``/models`` lists the models in any case.
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
    ) -> None:
        self._dataplane = dataplane
        self._telemetry = telemetry or Telemetry()
        self._metrics_path = metrics_path
        self._is_ready = is_ready
        self._as_tensorflow_serving = as_tensorflow_serving
        self._cors = _CORS if cors else []
        self._pool = ThreadPoolExecutor(max_workers=threads, thread_name_prefix="predict")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise RuntimeError(f"{scope['type']} is not served here")
        # The raw path, because names may hold an encoded slash; with the query, which the patterns then refuse.
        path = scope["raw_path"].decode("latin-1")
        if scope["query_string"]:
            path += "?" + scope["query_string"].decode("latin-1")
        method: str = scope["method"]
        if path[:4].lower() == "/v1/":
            await self._v1(method, path, scope["headers"], receive, send)
        elif path == "/models" and method in ("GET", "HEAD"):
            await _respond(send, 200, _indented(self._dataplane.models()), [_JSON])
        elif path in ("/healthz", "/readyz") and method in ("GET", "HEAD"):
            status, body = (200, {"status": "ok"}) if path == "/healthz" else self._readiness()
            await _respond(send, status, orjson.dumps(body), [_JSON])
        elif self._metrics_path is not None and path.partition("?")[0] == self._metrics_path:
            await self._metrics(path, send)
        else:
            await _respond(send, 404, _HTML_404, [(b"content-type", b"text/html")])

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
        own = [_JSON, *self._cors]
        if request_id:
            own.append((b"x-request-id", request_id))
        code, answer = Code.OK, b""
        try:
            status = 200
            answer = await self._answer(method, path, headers, receive, trace)
            if trace.api in _POOLED:
                own.append((b"x-model-version", b"%d" % (trace.version or 0)))
        except VersionTooLarge:
            status, code = 400, Code.INVALID_ARGUMENT
        except ServingError as error:
            status, code, answer = HTTP_STATUS[error.code], error.code, _error_body(error.message)
        except Exception as error:
            log.exception("%s %s failed", method, path)
            status, code, answer = 500, Code.INTERNAL, _error_body(f"{type(error).__name__}: {error}")
        if len(answer) >= _WORTH_PACKING and _takes_gzip(headers):
            answer = await asyncio.get_running_loop().run_in_executor(self._pool, _pack, answer)
            own += [(b"content-encoding", b"gzip"), (b"vary", b"accept-encoding")]
        # Before the answer goes out, so that whoever has it finds it counted.
        self._telemetry.finish(trace, code, len(answer))
        await _respond(send, status, answer, own)

    async def _answer(
        self, method: str, path: str, headers: Headers, receive: Receive, trace: Trace
    ) -> bytes:
        route = parse_route(method, path)
        trace.api, trace.model = route.verb, route.target.model
        if route.verb not in _POOLED:
            return self._look_up(route)
        body = await _read(receive)
        trace.request_bytes = len(body)
        if route.verb == "predict" and len(body) <= _QUICK_BYTES and not _is_gzip(headers):
            # A hop to another thread would cost more than such a call.
            answer = self._dataplane.predict_quickly(route.target, body, trace)
            if answer is not None:
                return answer.body
        return (await self._in_pool(route, body, headers, trace)).body

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

    def close(self) -> None:
        """Start no more predictions; those that run are not waited for (the HTTP server has done that)."""
        self._pool.shutdown(wait=False, cancel_futures=True)


# Smaller answers go out sooner as they are.
_WORTH_PACKING = 16 * 2**10
_ZERO = re.compile(rb"q=0(\.0*)?")
# A body of this size is read and answered in a millisecond or two, sooner than with a hop to another thread.
_QUICK_BYTES = 2**20
_JSON = (b"content-type", b"application/json")
_TEXT = (b"content-type", b"text/plain")
_POOLED = frozenset({"predict", "classify", "regress"})


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


def _takes_gzip(headers: Headers) -> bool:
    """Whether ``Accept-Encoding`` names gzip, and doesn't do so to exclude it."""
    for name, value in headers:
        if name == b"accept-encoding":
            for coding in value.lower().split(b","):
                kind, _, weight = coding.partition(b";")
                if kind.strip() == b"gzip":
                    return _ZERO.fullmatch(weight.strip()) is None
    return False


def _pack(body: bytes) -> bytes:
    return gzip.compress(body, compresslevel=1, mtime=0)


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
