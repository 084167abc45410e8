"""TensorFlow Serving's own REST paths, passed through to the model server, whichever it is."""

from __future__ import annotations

import re
import time
from collections.abc import Awaitable, Callable
from functools import lru_cache, partial
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from services.api.keep_alive import ConnectionLost, Headers, Reply
from services.api.model_server import First, ModelServer, down
from services.api.routing import KEY_HEADER, Choice
from services.api.upstream import OURS, OURS_IN_ANSWERS, forwarded, pass_through
from shared.errors import NotFound, Unavailable
from shared.wire import Answer

SMALL_BYTES = 2**20
_LABEL = re.compile(rb"^/v1/models/([^/:]+)/labels/([^/:]+)((?::|/).*)?$")
_DEFAULT = re.compile(rb"^/v1/models/([^/:]+)(:(?:predict|classify|regress))$")
_NOT_CHOSEN = Choice(None)
# with a body in memory these are ours to write
_NOT_SENT = OURS | {b"content-length", b"expect"}
_NOT_GIVEN = OURS_IN_ANSWERS | {b"content-length"}


class Passed(NamedTuple):
    """A request's path with its version put in, and what chose that version."""

    path: bytes
    model: str = ""
    rest: bytes = b""
    choice: Choice = _NOT_CHOSEN


async def pass_to_model_server(server: ModelServer, request: Request) -> Response:
    """Send a request on, to the version that its label, or the model's default, leads to; both bodies are streamed.

    Raises:
        Unavailable: the server does not answer.
    """
    raw_path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    passed = await _with_version(server, raw_path, request.headers.get(KEY_HEADER))
    began = time.perf_counter()
    response = await pass_through(server.http, request, raw_path=passed.path, down=down())
    if _asks(passed):
        server.report(passed.model, passed.choice, response.status_code, time.perf_counter() - began)
    return response


def is_small(method: str, headers: Headers, largest: int = SMALL_BYTES) -> bool:
    """Whether a request may take the fast way, with both bodies in memory; ``largest``: of its own."""
    if method not in ("GET", "POST"):
        return False
    for name, value in headers:
        if name == b"content-length":
            if not value.isdigit() or int(value) > largest:
                return False
        elif name == b"transfer-encoding":
            return False
    return True


class Small(NamedTuple):
    """A request that ``is_small`` has found small. ``key``: see ``routing``."""

    method: bytes
    raw_path: bytes
    suffix: bytes  # the query with its question mark
    headers: Headers  # as they are sent on
    body: bytes
    key: str | None


def small(
    method: str,
    raw_path: bytes,
    query: bytes,
    headers: Headers,
    body: bytes,
    key: str | None,
    request_id: str,
) -> Small:
    """What is sent on of such a request."""
    return Small(
        method.encode("ascii"),
        raw_path,
        b"?" + query if query else b"",
        [*forwarded(headers, _NOT_SENT), (b"x-request-id", request_id.encode("ascii"))],
        body,
        key,
    )


async def pass_small(
    server: ModelServer, asked: Small, passed: Passed | None = None, first: First | None = None
) -> Answer:
    """As ``pass_to_model_server``; ``passed`` and ``first``: what came of ``pass_at_hand``.

    Raises:
        Unavailable: the server does not answer.
    """
    if passed is None or first is None or isinstance(first.outcome, ConnectionLost):
        passed = await _with_version(server, asked.raw_path, asked.key)
        answer = await _ask(server, asked, passed)
    else:
        answer = _reported(server, passed, first)
    if answer.status == 404 and _chosen(passed):
        # a version that is gone has computed nothing: perhaps the label was moved a moment ago
        server.forget()
        moved = await _with_version(server, asked.raw_path, asked.key)
        if moved.choice.version != passed.choice.version:
            passed = moved
            answer = await _ask(server, asked, moved)
    return _given(server, asked, passed, answer)


def pass_at_hand(server: ModelServer, asked: Small, then: Callable[[Passed, First], None]) -> bool:
    """Send it on where the version and a connection are at hand; False: they are not, and nothing was done.

    ``then`` gets what came of it, for ``passed_at_hand``.
    """
    passed = _with_version_at_hand(server, asked.raw_path, asked.key)
    if passed is None:
        return False
    return server.ask_at_hand(
        asked.method,
        passed.path + asked.suffix,
        asked.headers,
        (asked.body,),
        passed.choice,
        partial(then, passed),
    )


def passed_at_hand(server: ModelServer, asked: Small, passed: Passed, first: First) -> Answer | None:
    """The answer; None if there was none, or it may not be the last word, and ``pass_small`` is to go on."""
    if not isinstance(first.outcome, Reply) or (first.outcome.status == 404 and _chosen(passed)):
        return None
    return _given(server, asked, passed, _reported(server, passed, first))


async def _ask(server: ModelServer, asked: Small, passed: Passed) -> Reply:
    def ask() -> Awaitable[Reply]:
        return server.ask(asked.method, passed.path + asked.suffix, asked.headers, (asked.body,))

    return await (server.watched(passed.model, passed.choice, ask) if _chosen(passed) else ask())


def _reported(server: ModelServer, passed: Passed, first: First) -> Reply:
    return server.reported(passed.model, first if _chosen(passed) else first._replace(choice=_NOT_CHOSEN))


def _given(server: ModelServer, asked: Small, passed: Passed, answer: Reply) -> Answer:
    choice = passed.choice
    if choice.shadow is not None and _asks(passed) and answer.status == 200:
        server.shadow(
            passed.model,
            choice.shadow,
            b"/v1/models/%s/versions/%d%s%s"
            % (passed.model.encode(), choice.shadow, passed.rest, asked.suffix),
            asked.headers,
            (asked.body,),
            answer.content,
        )
    return Answer(answer.status, forwarded(answer.headers, _NOT_GIVEN), answer.content)


async def _with_version(server: ModelServer, raw_path: bytes, key: str | None) -> Passed:
    """A label that we do not know is the model server's own business."""
    found = _with_version_at_hand(server, raw_path, key)
    if found is not None:
        return found
    model, label, rest = _parts(raw_path) or (b"", None, b"")
    try:
        choice = await server.route(
            model.decode("ascii"), label.decode("ascii") if label is not None else None, key
        )
    except (NotFound, Unavailable, UnicodeDecodeError):
        return Passed(raw_path)
    return _passed(raw_path, model, rest, choice)


def _with_version_at_hand(server: ModelServer, raw_path: bytes, key: str | None) -> Passed | None:
    """As ``_with_version``, where nobody need be asked; else None."""
    parts = _parts(raw_path)
    if parts is None:
        return Passed(raw_path)
    model, label, rest = parts
    try:
        choice = server.choose_at_hand(
            model.decode("ascii"), label.decode("ascii") if label is not None else None, key
        )
    except (NotFound, UnicodeDecodeError):
        return Passed(raw_path)
    return _passed(raw_path, model, rest, choice) if choice is not None else None


@lru_cache(maxsize=1024)
def _parts(raw_path: bytes) -> tuple[bytes, bytes | None, bytes] | None:
    """Model, label and the rest of a path whose version is ours to choose; None for others."""
    found = _LABEL.match(raw_path)
    if found is not None:
        return found.group(1), found.group(2), found.group(3) or b""
    found = _DEFAULT.match(raw_path)
    return (found.group(1), None, found.group(2)) if found is not None else None


def _passed(raw_path: bytes, model: bytes, rest: bytes, choice: Choice) -> Passed:
    if choice.version is None:
        return Passed(raw_path, model.decode("ascii"), rest)
    return Passed(
        b"/v1/models/%s/versions/%d%s" % (model, choice.version, rest), model.decode("ascii"), rest, choice
    )


def _chosen(passed: Passed) -> bool:
    """Whether a version was chosen here, for a request for an answer."""
    return passed.choice.version is not None and _asks(passed)


def _asks(passed: Passed) -> bool:
    """Whether it is a request for an answer, not one about the model."""
    return passed.rest.startswith(b":")
