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
SMALL_BYTES = 2**20
OURS = frozenset({b"host", b"x-request-id"})
OURS_IN_ANSWERS = frozenset({b"date", b"server"})
Headers = list[tuple[bytes, bytes]]


def forwarded(headers: Iterable[tuple[bytes, bytes]], without: frozenset[bytes] = frozenset()) -> Headers:
    """``headers`` that belong to the message itself."""
    pairs = [(name.lower(), value) for name, value in headers]
    named = {
        token.strip().lower() for name, value in pairs if name == b"connection" for token in value.split(b",")
    }
    dropped = _HOP_BY_HOP | named | without
    return [(name, value) for name, value in pairs if name not in dropped]


def target_url(base: httpx.URL, raw_path: bytes, query: bytes) -> httpx.URL:
    """``raw_path`` and ``query`` below ``base``, with their own percent-encoding."""
    path = base.raw_path.partition(b"?")[0].rstrip(b"/") + raw_path
    return base.copy_with(raw_path=path + (b"?" + query if query else b""))


def is_small(request: Request) -> bool:
    """Whether a request may take the fast way."""
    length = request.headers.get("content-length", "0")
    chunked = "transfer-encoding" in request.headers
    return (
        request.method in ("GET", "POST")
        and not chunked
        and length.isdecimal()
        and int(length) <= SMALL_BYTES
    )


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
    response.raw_headers = forwarded(answer.headers.raw, OURS_IN_ANSWERS)
    return response


async def _body(answer: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()
