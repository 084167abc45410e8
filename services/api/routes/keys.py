"""API keys and the audit log, for admins."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Path, Query, Request
from starlette.responses import Response

from services.api import render
from services.api.access.principal import principal_of
from services.api.body import checked, json_of
from services.api.deps import AfterId, Limit, RawBody, ResourcesDep, StoreDep
from services.api.describe import json_body, problems
from services.api.requests import KeyRequest
from shared.errors import NotFound
from shared.keys import new_key
from shared.views import AuditList, KeyList, KeyView, NewKeyView

router = APIRouter(tags=["access"])

_NO_STORE = {"Cache-Control": "no-store"}
_KeyId = Annotated[
    str,
    Path(max_length=64, description="A key's id, or its prefix.", examples=["key_06cf8m2k1x3q9r7t5vnw0a"]),
]


@router.post(
    "/keys",
    status_code=201,
    operation_id="createKey",
    summary="Make an API key",
    response_model=NewKeyView,
    responses={201: {"description": "The key, shown this once."}, **problems(400, 409, 413, 422, 503)},
    openapi_extra=json_body(
        KeyRequest,
        {
            "developer": (
                "For a person, 30 days",
                {"role": "developer", "name": "ana", "expires_in_seconds": 2592000},
            ),
            "predictor": (
                "For a program that only asks models",
                {"role": "predictor", "name": "shop", "limits": {"predictions": "6000/minute"}},
            ),
        },
    ),
)
def create_key(raw: RawBody, request: Request, store: StoreDep) -> Response:
    """What is stored is a hash. The very first key must be an admin's: from then on, keys are asked for everywhere."""
    wanted = checked(KeyRequest.model_validate, json_of(raw))
    new = new_key()
    key = store.keys.add(
        new,
        name=wanted.name,
        role=wanted.role,
        created_by=principal_of(request).name,
        project=wanted.project,
        limits=wanted.limits.model_dump(exclude_none=True),
        expires_in=wanted.expires_in_seconds,
    )
    body = {**render.key(key), "key": new.text}
    return render.answer(body, 201, {"Location": f"/keys/{key.id}", **_NO_STORE})


@router.get(
    "/keys",
    operation_id="listKeys",
    summary="List API keys",
    response_model=KeyList,
    responses=problems(422, 503),
)
def list_keys(store: StoreDep, limit: Limit = 50, after: AfterId = None) -> Response:
    """Newest first, with those that are revoked or expired; without secrets, which nobody has."""
    return render.answer(render.page(store.keys.find(after=after, limit=limit), render.key))


@router.get(
    "/keys/{key_id}",
    operation_id="getKey",
    summary="Read an API key's record",
    response_model=KeyView,
    responses=problems(404, 422, 503),
)
def get_key(key_id: _KeyId, store: StoreDep) -> Response:
    """Role, project, limits, and when it was last used."""
    return render.answer(render.key(store.keys.get(_known(key_id))))


@router.delete(
    "/keys/{key_id}",
    operation_id="revokeKey",
    summary="Revoke an API key",
    response_model=KeyView,
    responses=problems(404, 422, 503),
)
async def revoke_key(key_id: _KeyId, resources: ResourcesDep) -> Response:
    """At once in the process that answers, within 5 seconds in all others. Its record stays; twice is fine."""
    key = await to_thread.run_sync(resources.store.keys.revoke, _known(key_id))
    resources.access.callers.forget()
    return render.answer(render.key(key))


@router.get(
    "/audit",
    operation_id="listAudit",
    summary="Read the audit log",
    response_model=AuditList,
    responses=problems(422, 503),
)
def list_audit(
    store: StoreDep,
    limit: Limit = 50,
    after: Annotated[
        int | None, Query(ge=0, le=2**62, description="The last `seq` of the page before.")
    ] = None,
    key: Annotated[
        str | None,
        Query(max_length=64, pattern=r"^[A-Za-z0-9_]+$", description="Only of the key with this id."),
    ] = None,
) -> Response:
    """Newest first: who changed what, took what away, or was refused. Predictions and reading are not in it."""
    return render.answer(render.page(store.audit.find(after=after, limit=limit, key_id=key), render.audit))


def _known(key_id: str) -> str:
    if not key_id.isascii() or not key_id.isprintable():
        raise NotFound("There is no such key.", code="key_not_found", hint="See them with GET /keys.")
    return key_id
