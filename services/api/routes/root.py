"""The front door, and TensorBoard behind it."""

from __future__ import annotations

from fastapi import APIRouter, Request
from starlette.responses import RedirectResponse, Response

from services.api import render
from services.api.deps import resources_of
from services.api.release import VERSION
from services.api.upstream import pass_through
from shared.errors import NotFound, Unavailable

router = APIRouter(include_in_schema=False)


@router.get("/")
async def front_door() -> Response:
    """Where to go from here."""
    return render.answer(
        {
            "name": "Modelyard",
            "version": VERSION,
            "links": {
                "docs": "/docs",
                "openapi": "/openapi.json",
                "jobs": "/jobs",
                "models": "/models",
                "tensorboard": "/tensorboard/",
                "readiness": "/readyz",
            },
        }
    )


@router.get("/tensorboard")
async def to_tensorboard() -> Response:
    """TensorBoard's own links are relative: they need the slash."""
    return RedirectResponse("/tensorboard/")


@router.api_route("/tensorboard/{rest:path}", methods=["GET", "HEAD", "POST"])
async def tensorboard(request: Request) -> Response:
    """TensorBoard, which is told to live below this path."""
    client = resources_of(request).tensorboard
    if client is None:
        raise Unavailable(
            "TensorBoard is not set up here.",
            code="tensorboard_unavailable",
            hint="Start it (python -m services.tensorboard) and set MODELYARD_TENSORBOARD_URL.",
        )
    if ".." in request.scope["path"].split("/"):
        raise NotFound("There is nothing at this path.", code="route_not_found")
    down = Unavailable(
        "TensorBoard does not answer.",
        code="tensorboard_unavailable",
        hint="It may still be starting; check MODELYARD_TENSORBOARD_URL and its log.",
    )
    raw_path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    return await pass_through(client, request, raw_path=raw_path, down=down)
