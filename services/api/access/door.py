"""The door: every request passes it before any route runs."""

from __future__ import annotations

import logging
import time
from http.cookies import CookieError, SimpleCookie
from typing import Any
from urllib.parse import quote

from anyio import to_thread
from starlette._utils import get_route_path  # what the router itself matches
from starlette.requests import ClientDisconnect
from starlette.responses import RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.access.asked import Asked
from services.api.access.callers import Callers
from services.api.access.checks import body_limit, caller_at_hand, check_role
from services.api.access.headers import secured
from services.api.access.opening import Access
from services.api.access.origins import SAFE, check_origin
from services.api.access.principal import Principal
from services.api.access.rules import Found, Rules
from services.api.errors import Forbidden, RateLimited, Unauthenticated, problem, problem_of
from shared.errors import ModelyardError, Unavailable

log = logging.getLogger(__name__)

COOKIE = "modelyard_session"
MIB = 2**20
_OF_A_JOB = "/jobs/{job_id}/"
STREAM_SECONDS = 5.0  # between two looks at the key of an open stream


class Door:
    """ASGI middleware, inside the edge."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._rules = Rules()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request in, or answer it with why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        access: Access = scope["app"].state.resources.access
        state: dict[str, Any] = scope.setdefault("state", {})
        request = Asked(scope["headers"], scope.get("client"))
        path = get_route_path(scope)
        found = self._rules.of(scope["method"], path)
        answer = _Answer(send, path)
        refused: ModelyardError | None = None
        try:
            try:
                principal = await self._caller(access, scope, request, found)
            except Unavailable as error:  # its hint has addresses that are no stranger's business
                raise Unavailable(
                    "Who calls can't be looked up: the store does not answer.",
                    code=error.code,
                    hint="Try again.",
                ) from error
            state["principal"] = principal
            if principal is not None and principal.key_id is not None:
                answer.watch(access.callers, request.secret, session=principal.via == "session")
            await self._admit(access, scope, found, principal, answer)
        except ModelyardError as error:
            refused = error
        try:
            if refused is None:
                await self._serve(scope, receive, answer)
            elif isinstance(refused, Unauthenticated) and request.html and scope["method"] == "GET":
                # a person with a browser; 303, so that what follows is a GET
                target = quote(
                    path + (f"?{query}" if (query := scope["query_string"].decode("latin-1")) else "")
                )
                await RedirectResponse(f"/login?next={target}", 303)(scope, receive, answer)
            else:
                await self._refuse(refused, found, scope, receive, answer)
        finally:
            self._audit(access, scope, request, found, refused, answer)

    async def _serve(self, scope: Scope, receive: Receive, answer: _Answer) -> None:
        try:
            await self._app(scope, receive, answer)
        except (_KeyEnded, ClientDisconnect):
            if not answer.ended:
                raise
            await answer.finish()

    async def _caller(self, access: Access, scope: Scope, request: Asked, found: Found) -> Principal | None:
        """Who it is; None on a public route without a good key.

        Raises:
            Unauthenticated, Forbidden, RateLimited, Unavailable
        """
        principal = caller_at_hand(access, request, scope["method"], found)
        if principal is not None:
            return principal
        tried = False
        if request.given is not None:
            tried = True
            async with access.throttle.looking_up(request.address):
                principal = await access.callers.find(request.given)
        elif request.cookie and (token := session_token(request.cookie)):
            request.secret = token
            principal = await access.callers.find(token, session=True)
            if principal is not None:
                # the browser adds the cookie by itself, so it says nothing about whose page asked
                check_origin(scope["method"], request.origin, request.site, request.host)
        if principal is None and tried:
            await access.throttle.failed(request.address)
        if principal is None and not found.rule.public:
            access.lock.check_known()
            raise Unauthenticated(
                "This key is not good: unknown, expired or revoked." if tried else "An API key is needed.",
                code="key_invalid" if tried else "key_needed",
                hint="Send it as 'Authorization: Bearer <key>'; for the command line and the client set "
                "MODELYARD_API_KEY. An admin makes keys with: modelyard keys create",
            )
        return principal

    async def _admit(
        self, access: Access, scope: Scope, found: Found, principal: Principal | None, answer: _Answer
    ) -> None:
        """May this caller do this, now, with so large a body?

        Raises:
            Forbidden, NotFound, RateLimited, TooLarge
        """
        if principal is None:
            return
        rule = found.rule
        check_role(principal, scope["method"], scope["path"], found)
        if rule.public:
            return
        if (
            principal.project is not None
            and scope["method"] not in SAFE
            and found.template.startswith(_OF_A_JOB)
        ):
            job_id = get_route_path(scope).split("/")[2]
            principal.check_project(await to_thread.run_sync(access.project_of, job_id))
        allowance = await access.throttle.spend(principal, rule.kind)
        if allowance is not None:
            answer.extra = allowance.headers()
        body, upload = scope["state"].get("body"), scope["state"].get("is_upload", False)
        limit = body_limit(access, principal, upload=upload)
        if limit is not None and body is not None:
            most, hint = limit
            body.lower(most * MIB, hint)
            body.check_declared(scope)

    async def _refuse(
        self, refused: ModelyardError, found: Found, scope: Scope, receive: Receive, answer: _Answer
    ) -> None:
        request_id = scope["state"].get("request_id")
        if isinstance(refused, Forbidden) and found.methods and scope["method"] not in found.methods:
            allowed = ", ".join(sorted(found.methods))
            response = problem(
                405,
                "method_not_allowed",
                f"{scope['method']} is not possible at {scope['path'][:200]}.",
                hint=f"Allowed here: {allowed}.",
                request_id=request_id,
                headers={"Allow": allowed},
            )
        else:
            response = problem_of(refused, request_id)
        await response(scope, receive, answer)

    @staticmethod
    def _audit(
        access: Access,
        scope: Scope,
        request: Asked,
        found: Found,
        refused: ModelyardError | None,
        answer: _Answer,
    ) -> None:
        denied = isinstance(refused, Forbidden | Unauthenticated)
        if not (found.rule.audited or denied) or isinstance(refused, RateLimited):
            return
        principal: Principal | None = scope["state"].get("principal")
        access.audit.record(
            key_id=principal.key_id if principal else None,
            who=principal.name if principal else "nobody",
            role=principal.role.value if principal else None,
            method=scope["method"],
            route=found.template,
            target=answer.location or scope["path"],
            status=answer.status,
            request_id=scope["state"].get("request_id", ""),
            address=request.address,
            # strangers can't fill the store
            row=principal is not None,
        )


class _KeyEnded(OSError):
    """The key of an open stream is no longer good. An OSError is what a closed connection gives."""


class _Answer:
    """Adds headers, remembers what the audit log wants to know, and ends a stream whose key has ended."""

    def __init__(self, send: Send, path: str) -> None:
        self._send = send
        self._path = path
        self._watched: tuple[Callers, str, bool] | None = None
        self._looked = 0.0
        self.ended = False
        self.extra: list[tuple[bytes, bytes]] = []
        self.status = 0
        self.location: str | None = None

    def watch(self, callers: Callers, secret: str, *, session: bool) -> None:
        """While the answer lasts, look now and then whether the key is still good."""
        self._watched = callers, secret, session
        self._looked = time.monotonic()

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = message.get("headers", ())
            if 200 <= self.status < 300:
                place = next((value for name, value in headers if name == b"location"), None)
                self.location = place.decode("latin-1") if place else None
            message = {**message, "headers": [*secured(self._path, headers), *self.extra]}
        elif message.get("more_body") and time.monotonic() - self._looked > STREAM_SECONDS:
            await self._look_again()
        await self._send(message)

    async def finish(self) -> None:
        """End the answer where it is."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _look_again(self) -> None:
        if self._watched is None:
            return
        callers, secret, session = self._watched
        self._looked = time.monotonic()
        try:
            good = await callers.find(secret, session=session) is not None
        except Unavailable:  # long answers are no reason to end when the store does
            good = True
        if not good:
            self.ended = True
            raise _KeyEnded


def session_token(cookie: str) -> str | None:
    """The session's token in a Cookie header."""
    if COOKIE not in cookie:
        return None
    try:
        found = SimpleCookie(cookie).get(COOKIE)
    except CookieError:
        return None
    return found.value if found and 20 <= len(found.value) <= 100 else None
