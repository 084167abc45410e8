"""Helpers that describe routes for OpenAPI: bodies that are read raw, and errors that are problem documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, TypeAdapter

from services.api.errors import PROBLEM_JSON
from services.api.remote_files import DatasetSource
from services.api.requests import RetryRequest, RollbackRequest
from shared.specs import JOB
from shared.specs.traffic import LabelRoute
from shared.views import (
    EventList,
    EventView,
    JobView,
    PlanView,
    PredictRequest,
    Problem,
    ProgressView,
)

_REF = "#/components/schemas/{model}"
# Models that routes name by reference only, so that FastAPI does not find them itself.
_REFERENCED: tuple[type[BaseModel], ...] = (
    DatasetSource,
    EventList,
    EventView,
    JobView,
    LabelRoute,
    PlanView,
    PredictRequest,
    Problem,
    ProgressView,
    RetryRequest,
    RollbackRequest,
)
JOB_SPEC = {"$ref": _REF.format(model="JobSpec")}  # a union has no class to be named by
_PROBLEM = {PROBLEM_JSON: {"schema": {"$ref": _REF.format(model="Problem")}}}
_WHY = {
    400: "The body is not what its content type says.",
    404: "No such thing.",
    409: "It is there, but not in a state that allows this.",
    413: "The body is over the limit.",
    415: "This content type is not taken here.",
    422: "The input can't be used; 'field' names what to mend.",
    502: "The model server failed.",
    503: "Something this depends on does not answer; try again.",
    504: "The answer took too long.",
}
Responses = dict[int | str, dict[str, Any]]


def ref(model: type[BaseModel]) -> dict[str, str]:
    """A reference to a model's schema."""
    return {"$ref": _REF.format(model=model.__name__)}


def problems(*statuses: int) -> Responses:
    """Error answers of a route, beside those that all have."""
    return {status: {"description": _WHY[status], "content": _PROBLEM} for status in statuses}


def json_body(
    model: type[BaseModel] | dict[str, str], examples: dict[str, tuple[str, Any]], *, required: bool = True
) -> dict[str, Any]:
    """OpenAPI's requestBody of a route that reads its body raw; ``examples``: name -> (summary, value)."""
    shown = {name: {"summary": summary, "value": value} for name, (summary, value) in examples.items()}
    schema = model if isinstance(model, dict) else ref(model)
    content = {"application/json": {"schema": schema, "examples": shown}}
    return {"requestBody": {"required": required, "content": content}}


def install(app: FastAPI) -> None:
    """Let ``app.openapi()`` describe all this."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _described(app)
        return app.openapi_schema

    app.openapi = openapi  # type: ignore[method-assign]


def _adapters() -> Iterator[tuple[str, TypeAdapter[Any], Literal["validation", "serialization"]]]:
    for model in _REFERENCED:
        answered = model in (EventList, EventView, JobView, PlanView)
        yield model.__name__, TypeAdapter(model), "serialization" if answered else "validation"
    yield "JobSpec", JOB, "validation"


def _described(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    schemas: dict[str, Any] = schema.setdefault("components", {}).setdefault("schemas", {})
    for title, adapter, mode in _adapters():
        found = adapter.json_schema(ref_template=_REF, mode=mode)
        for name, definition in found.pop("$defs", {}).items():
            schemas.setdefault(name, definition)
        schemas.setdefault(title, found)
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    for operations in schema["paths"].values():
        for operation in operations.values():
            answers = operation["responses"]
            described = answers.get("422")
            if described is not None and PROBLEM_JSON not in described.get("content", {}):
                answers["422"] = problems(422)[422]
            answers["default"] = {"description": "Any other error.", "content": _PROBLEM}
    schema["components"]["schemas"] = dict(sorted(schemas.items()))
    return schema
