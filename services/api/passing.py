"""TensorFlow Serving's own REST paths, passed through to the model server, whichever it is."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from services.api.keep_alive import Headers, Reply
from services.api.model_server import ModelServer, down
from services.api.routing import KEY_HEADER, Choice
from services.api.upstream import OURS, OURS_IN_ANSWERS, forwarded, is_small, pass_through
from shared.errors import NotFound, Unavailable

_LABEL = re.compile(rb"^/v1/models/([^/:]+)/labels/([^/:]+)((?::|/).*)?$")
_DEFAULT = re.compile(rb"^/v1/models/([^/:]+)(:(?:predict|classify|regress))$")


_NOT_CHOSEN = Choice(None)


@dataclass(frozen=True, slots=True)
class _Passed:
    """A request's path with its version put in, and what chose that version."""

    path: bytes
    model: str = ""
    rest: bytes = b""
    choice: Choice = _NOT_CHOSEN


async def pass_to_model_server(server: ModelServer, request: Request) -> Response:
    """Send a request on, to the version that its label, or the model's default, leads to.

    Raises:
        Unavailable: the server does not answer.
    """
    raw_path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    passed = await _with_version(server, raw_path, request.headers.get(KEY_HEADER))
    if is_small(request):
        return await _in_memory(server, request, passed)
    began = time.perf_counter()
    response = await pass_through(server.http, request, raw_path=passed.path, down=down())
    if _asks(passed):
        server.report(passed.model, passed.choice, response.status_code, time.perf_counter() - began)
    return response


async def _with_version(server: ModelServer, raw_path: bytes, key: str | None) -> _Passed:
    """A label that we do not know is the model server's own business."""
    found = _LABEL.match(raw_path)
    label: bytes | None = None
    if found is not None:
        model, label, rest = found.groups()
    else:
        found = _DEFAULT.match(raw_path)
        if found is None:
            return _Passed(raw_path)
        model, rest = found.groups()
    try:
        name = model.decode("ascii")
        choice = await server.route(name, label.decode("ascii") if label is not None else None, key)
    except (NotFound, Unavailable, UnicodeDecodeError):
        return _Passed(raw_path)
    if choice.version is None:
        return _Passed(raw_path, name, rest or b"")
    path = b"/v1/models/%s/versions/%d%s" % (model, choice.version, rest or b"")
    return _Passed(path, name, rest or b"", choice)


def _asks(passed: _Passed) -> bool:
    """Whether it is a request for an answer, not one about the model."""
    return passed.rest.startswith(b":")


async def _in_memory(server: ModelServer, request: Request, passed: _Passed) -> Response:
    query: bytes = request.scope["query_string"]
    suffix = b"?" + query if query else b""
    method = request.method.encode("ascii")
    headers: Headers = forwarded(request.headers.raw, OURS | {b"content-length", b"expect"})
    body = await request.body()

    async def ask(path: bytes = passed.path) -> Reply:
        return await server.ask(method, path + suffix, headers, body)

    if _asks(passed) and passed.choice.version is not None:
        answer = await server.watched(passed.model, passed.choice, ask)
        moved = answer.status == 404 and await _moved(server, request, passed)
        if moved:
            passed = moved
            answer = await server.watched(passed.model, passed.choice, lambda: ask(moved.path))
    else:
        answer = await ask()
    choice = passed.choice
    if choice.shadow is not None and _asks(passed) and answer.status == 200:
        server.shadow(
            passed.model,
            choice.shadow,
            lambda model, version: b"/v1/models/%s/versions/%d%s" % (model.encode(), version, passed.rest),
            body,
            answer.content,
        )
    response = Response(answer.content, answer.status)
    response.raw_headers = forwarded(answer.headers, OURS_IN_ANSWERS | {b"content-length"})
    if answer.status not in (204, 304):
        response.raw_headers.append((b"content-length", b"%d" % len(answer.content)))
    return response


async def _moved(server: ModelServer, request: Request, passed: _Passed) -> _Passed | None:
    """The request's way now, if it is another than a moment ago: a version that is gone has computed nothing."""
    server.forget()
    raw_path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    again = await _with_version(server, raw_path, request.headers.get(KEY_HEADER))
    return again if again.choice.version != passed.choice.version else None
