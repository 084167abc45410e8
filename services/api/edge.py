"""The outermost layer of every request: its id, its size limit, its log line, its metrics, and the last resort."""

from __future__ import annotations

import asyncio
import contextlib
import time

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.accounts import account, given_id, log, new_id
from services.api.errors import problem_of, unexpected
from services.api.telemetry import Telemetry
from shared.errors import TooLarge
from shared.logs import bound

MIB = 2**20
# What a multipart upload may have around the file itself.
_ENVELOPE_BYTES = 64 * 1024
# After refusing a body we go on reading for so long: a connection closed on a client that still writes is reset, and
# the client may then never see the answer.
LINGER_SECONDS = 2.0


class Edge:
    """ASGI middleware."""

    def __init__(self, app: ASGIApp, *, max_body_mb: int, max_upload_mb: int, telemetry: Telemetry) -> None:
        self._app = app
        self._max_body = max_body_mb * MIB
        self._max_upload = max_upload_mb * MIB
        self._telemetry = telemetry

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request, or pass on anything that is not HTTP."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        request_id = given_id(scope["headers"]) or new_id()
        scope.setdefault("state", {})["request_id"] = request_id
        upload = scope["method"] == "POST" and scope["path"].rstrip("/") == "/datasets"
        body = _Body(
            receive,
            limit=self._max_upload + _ENVELOPE_BYTES if upload else self._max_body,
            hint="The operator sets the limit with "
            + ("MODELYARD_MAX_UPLOAD_MB." if upload else "MODELYARD_MAX_BODY_MB."),
        )
        answer = _Answer(send, body, request_id)
        scope["state"].update(body=body, is_upload=upload)
        try:
            body.check_declared(scope)
            with bound(request_id=request_id):
                await self._app(scope, body, answer)
        except TooLarge as error:
            if answer.status == 0:
                await problem_of(error, request_id)(scope, receive, answer)
        except ClientDisconnect:
            log.debug("the client of request %s has gone away", request_id)
        except Exception as error:
            failure = unexpected(error, request_id)
            if answer.status == 0:
                await failure(scope, receive, answer)
            else:
                raise
        finally:
            account(
                self._telemetry,
                scope["method"],
                scope["path"],
                route=getattr(scope.get("route"), "path", "unmatched"),
                status=answer.status,
                seconds=time.perf_counter() - began,
                streamed=answer.streamed,
                request_id=request_id,
            )


class _Body:
    """Counts a request's body while it is read, and refuses it as soon as it is too large."""

    def __init__(self, receive: Receive, *, limit: int, hint: str) -> None:
        self._receive = receive
        self._limit = limit
        self._hint = hint
        self._seen = 0
        self._complete = False
        self.refused = False

    def lower(self, limit: int, hint: str) -> None:
        """Take less than that, if ``limit`` bytes are less; ``hint`` says whose limit it is."""
        if limit < self._limit:
            self._limit, self._hint = limit, hint

    def check_declared(self, scope: Scope) -> None:
        """Refuse by the Content-Length alone, before anything is read.

        Raises:
            TooLarge: it is over the limit.
        """
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > self._limit:
                raise self._too_large()

    async def __call__(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._seen += len(message.get("body", b""))
            self._complete = not message.get("more_body", False)
            if self._seen > self._limit:
                raise self._too_large()
        return message

    async def drain(self) -> None:
        """Read on for a moment, keeping nothing."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._complete:
                    message = await self._receive()
                    self._complete = not message.get("more_body", False)  # also when the client is gone

    def _too_large(self) -> TooLarge:
        self.refused = True
        return TooLarge(
            f"The body is larger than {self._limit // MIB} MiB.",
            hint=self._hint,
        )


class _Answer:
    """Adds the request's id to the answer, and lingers after a refused body."""

    def __init__(self, send: Send, body: _Body, request_id: str) -> None:
        self._send = send
        self._body = body
        self._request_id = request_id.encode("ascii")
        self.status = 0
        self.streamed = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message.get("headers", []), (b"x-request-id", self._request_id)]
            if self._body.refused:
                headers.append((b"connection", b"close"))
            message = {**message, "headers": headers}
        elif message.get("more_body", False):
            self.streamed = True
        elif self._body.refused:
            await self._send({**message, "more_body": True})
            await self._body.drain()
            message = {"type": "http.response.body", "body": b""}
        await self._send(message)
