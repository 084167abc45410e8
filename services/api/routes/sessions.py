"""Browsers: a page to log in with an API key, and the session that follows.

The cookie holds 256 random bits, of which the store has the hash, and its session ends with the key. It is HttpOnly (no
script reads it) and SameSite=Strict (no other site's page makes a browser send it); the door also looks at Origin.
"""

from __future__ import annotations

import secrets
from html import escape
from urllib.parse import parse_qs, quote

from anyio import to_thread
from fastapi import APIRouter, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from services.api import render
from services.api.access.door import COOKIE, session_token
from services.api.access.principal import Principal, principal_in, principal_of
from services.api.body import checked, json_of, short_body
from services.api.deps import ResourcesDep
from services.api.describe import problems, ref
from services.api.errors import Malformed, Unauthenticated
from services.api.requests import SessionRequest
from services.api.resources import Resources
from shared.keys import digest
from shared.views import SessionView

router = APIRouter(tags=["access"])

FORM = "application/x-www-form-urlencoded"
MAX_BYTES = 4096
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Modelyard</title>
<meta name="viewport" content="width=device-width">
<style>body{{font:16px system-ui;max-width:26em;margin:12vh auto;padding:0 1em}}
input,button{{font:inherit;padding:.5em;width:100%;box-sizing:border-box;margin:.4em 0}}.bad{{color:#b00020}}</style>
<h1>Modelyard</h1>{body}</html>"""
_FORM = """<p class="bad">{told}</p><form method="post" action="/session"><label>API key
<input name="key" type="password" autocomplete="current-password" required autofocus></label>
<input type="hidden" name="next" value="{next}"><button>Log in</button></form>"""
_INSIDE = """<p>You are {name} ({role}).</p><p><a href="{next}">Go on</a></p>
<form method="post" action="/logout"><button>Log out</button></form>"""


@router.get("/login", include_in_schema=False)
async def login_page(request: Request, next: str = "/tensorboard/", failed: bool = False) -> Response:
    """A form for a key; who is inside already may go on, or log out."""
    principal = principal_in(request.scope)
    target = escape(_own_path(next))
    if principal is None:
        told = "This key is not good: unknown, expired or revoked." if failed else ""
        return _page(_FORM.format(told=told, next=target))
    return _page(_INSIDE.format(name=escape(principal.name), role=principal.role, next=target))


@router.post(
    "/session",
    operation_id="openSession",
    summary="Log a browser in",
    response_model=SessionView,
    responses={
        200: {"description": "The cookie comes with the answer."},
        303: {"description": "For a form: on to the page in `next`, or back to the form."},
        **problems(400, 401, 413, 422, 429, 503),
    },
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {
                "application/json": {"schema": ref(SessionRequest)},
                FORM: {
                    "schema": {
                        "type": "object",
                        "required": ["key"],
                        "properties": {"key": {"type": "string"}, "next": {"type": "string"}},
                    }
                },
            },
        }
    },
)
async def open_session(request: Request, resources: ResourcesDep) -> Response:
    """With an API key, for as long as MODELYARD_SESSION_HOURS says; it ends with the key too."""
    raw = await short_body(request, MAX_BYTES, "A key is shorter than that.")
    by_form = request.headers.get("content-type", "").startswith(FORM)
    if by_form:
        fields = _form(raw)
        key, target = fields.get("key", ""), _own_path(fields.get("next", ""))
    else:
        key, target = checked(SessionRequest.model_validate, json_of(raw)).key, ""
    if not resources.access.lock.locked:
        return RedirectResponse(target, 303) if by_form else render.answer(_view(principal_of(request)))
    try:
        principal = await _caller(resources, request, key.strip())
    except Unauthenticated:
        if not by_form:
            raise
        return RedirectResponse(f"/login?failed=true&next={quote(target)}", 303)
    request.scope["state"]["principal"] = principal  # the audit log is to say who came in
    token = secrets.token_urlsafe(32)
    seconds = resources.access.session_seconds
    await to_thread.run_sync(
        lambda: resources.store.keys.open_session(digest(token), str(principal.key_id), seconds=seconds)
    )
    answer: Response = RedirectResponse(target, 303) if by_form else render.answer(_view(principal))
    answer.headers["Cache-Control"] = "no-store"
    answer.set_cookie(
        COOKIE,
        token,
        max_age=int(seconds),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return answer


@router.get(
    "/session",
    operation_id="getSession",
    summary="Who am I?",
    response_model=SessionView,
    responses=problems(503),
)
async def get_session(request: Request) -> Response:
    """The caller's key, or session, as the API sees it."""
    return render.answer(_view(principal_of(request)), headers={"Cache-Control": "no-store"})


@router.delete(
    "/session",
    status_code=204,
    operation_id="closeSession",
    summary="Log a browser out",
    responses=problems(503),
)
async def close_session(request: Request, resources: ResourcesDep) -> Response:
    """Ends the session of the cookie that comes with the request, if it is one."""
    return await _ended(request, resources, Response(status_code=204))


@router.post("/logout", include_in_schema=False)
async def log_out(request: Request, resources: ResourcesDep) -> Response:
    """The same for the page's button."""
    return await _ended(request, resources, RedirectResponse("/login", 303))


async def _ended(request: Request, resources: Resources, answer: Response) -> Response:
    token = session_token(request.headers.get("cookie", ""))
    if token is not None:
        await to_thread.run_sync(resources.store.keys.close_session, digest(token))
        resources.access.callers.forget()
    answer.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return answer


async def _caller(resources: Resources, request: Request, key: str) -> Principal:
    address = request.client.host if request.client else "unknown"
    async with resources.access.throttle.looking_up(address):
        principal = await resources.access.callers.find(key)
    if principal is None or principal.key_id is None:
        await resources.access.throttle.failed(address)
        raise Unauthenticated(
            "This key is not good: unknown, expired or revoked.",
            code="key_invalid",
            hint="An admin makes keys.",
        )
    return principal


def _view(principal: Principal) -> dict[str, object]:
    return {
        "key_id": principal.key_id,
        "name": principal.name,
        "role": principal.role,
        "project": principal.project,
        "via": principal.via,
    }


def _page(body: str, status: int = 200) -> Response:
    return HTMLResponse(_PAGE.format(body=body), status, {"Cache-Control": "no-store"})


def _own_path(target: str) -> str:
    """``target`` if it is a path of this server: never an address elsewhere (``//host``, ``/\\host``)."""
    good = (
        target.startswith("/")
        and target.isprintable()
        and target[1:2] not in ("/", "\\")
        and len(target) < 2000
    )
    return target if good else "/tensorboard/"


def _form(raw: bytes) -> dict[str, str]:
    try:
        found = parse_qs(raw.decode("ascii"), strict_parsing=bool(raw), max_num_fields=10)
    except ValueError:
        raise Malformed("The form is broken.") from None
    return {name: values[0] for name, values in found.items()}
