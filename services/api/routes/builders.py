"""Builders that jobs may name: the built-in ones and the user's own."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import BaseModel
from starlette.responses import Response

from services.api import render
from services.api.deps import ResourcesDep
from services.api.describe import problems
from shared import user_code
from shared.specs import Lenet5Params, MlpParams
from shared.user_code import Builder, Entry
from shared.views import BuilderList

router = APIRouter(tags=["jobs"])

_BUILT_IN: tuple[tuple[str, type[BaseModel]], ...] = (("lenet5", Lenet5Params), ("mlp", MlpParams))


@router.get(
    "/builders",
    operation_id="listBuilders",
    summary="List builders",
    response_model=BuilderList,
    responses=problems(503),
)
def list_builders(resources: ResourcesDep) -> Response:
    """What a job's `model.builder` and `dataset.builder` may name. Code of the user's own is read, not run."""
    own = user_code.find_all(resources.settings.code_dirs)
    return render.answer(render.everything([*map(_built_in, _BUILT_IN), *map(_described, own)]))


def _built_in(item: tuple[str, type[BaseModel]]) -> dict[str, Any]:
    name, params = item
    doc = params.__doc__
    parameters = [
        {"name": key, "required": field.is_required(), "default": field.default}
        for key, field in params.model_fields.items()
    ]
    return {
        "name": name,
        "source": "built in",
        "sha256": None,
        "doc": doc,
        "build_model": {"parameters": parameters, "open": False, "doc": doc},
        "make_dataset": None,
        "problem": None,
    }


def _described(builder: Builder) -> dict[str, Any]:
    return {
        "name": builder.name,
        "source": builder.source,
        "sha256": builder.sha256,
        "doc": builder.doc,
        **{name: _function(builder.functions.get(name)) for name in user_code.FUNCTIONS},
        "problem": builder.problem,
    }


def _function(entry: Entry | None) -> dict[str, Any] | None:
    if entry is None:
        return None
    parameters = [
        {"name": item.name, "required": item.required, "default": item.default} for item in entry.parameters
    ]
    return {"parameters": parameters, "open": entry.open, "doc": entry.doc}
