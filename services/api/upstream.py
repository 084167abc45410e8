"""Forwards requests to another HTTP server as they are: method, path, query, headers and both bodies, streamed."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable

import httpx
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from shared.errors import Unavailable

# RFC 9110, 7.6.1: these speak of one connection, not of the message
_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-authenticate proxy-authorization proxy-connection te trailer "
    b"transfer-encoding upgrade".split()
)
# The last three open our door: no other server is to see them.
OURS = frozenset({b"host", b"x-request-id", b"authorization", b"x-api-key", b"cookie"})
OURS_IN_ANSWERS = frozenset({b"date", b"server", b"x-request-id"})
Headers = list[tuple[bytes, bytes]]


def forwarded(headers: Iterable[tuple[bytes, bytes]], without: frozenset[bytes] = frozenset()) -> Headers:
    """``headers``, with names in lower case, that belong to the message itself."""
    kept = []
    named: set[bytes] = set()
    for pair in headers:
        name, value = pair
        if name in _HOP_BY_HOP:
            if name == b"connection":
                named.update(token.strip().lower() for token in value.split(b","))
        elif name not in without:
            kept.append(pair)
    return [pair for pair in kept if pair[0] not in named] if named else kept


def target_url(base: httpx.URL, raw_path: bytes, query: bytes) -> httpx.URL:
    """``raw_path`` and ``query`` below ``base``, with their own percent-encoding."""
    path = base.raw_path.partition(b"?")[0].rstrip(b"/") + raw_path
    return base.copy_with(raw_path=path + (b"?" + query if query else b""))


async def pass_through(
    client: httpx.AsyncClient,
    request: Request,
    *,
    raw_path: bytes,
    down: Unavailable,
) -> Response:
    """Send the request on and stream the answer back unchanged.

    Raises:
        Unavailable: ``down``, when the other server does not answer.
    """
    headers = forwarded(request.headers.raw, OURS)
    headers.append((b"x-request-id", request.state.request_id.encode("ascii")))
    if not any(name == b"accept-encoding" for name, _ in headers):
        headers.append((b"accept-encoding", b"identity"))  # httpx would ask for gzip in the client's name
    has_body = "content-length" in request.headers or "transfer-encoding" in request.headers
    outgoing = client.build_request(
        request.method,
        target_url(client.base_url, raw_path, request.scope["query_string"]),
        headers=headers,
        content=request.stream() if has_body else None,
    )
    try:
        answer = await client.send(outgoing, stream=True)
    except httpx.TransportError as error:
        if isinstance(error.__cause__, ClientDisconnect):
            raise
        raise down from error
    response = StreamingResponse(
        _body(answer), status_code=answer.status_code, background=BackgroundTask(answer.aclose)
    )
    given = [(name.lower(), value) for name, value in answer.headers.raw]
    response.raw_headers = forwarded(given, OURS_IN_ANSWERS)
    return response


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()
