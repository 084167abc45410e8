"""Helpers that describe routes for OpenAPI: bodies that are read raw, and errors that are problem documents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel, TypeAdapter

from services.api.access.door import COOKIE
from services.api.access.rules import TABLE, UNKNOWN, Rule
from services.api.errors import PROBLEM_JSON
from services.api.remote_files import DatasetSource
from services.api.requests import (
    ContinueRequest,
    DrainRequest,
    KeyRequest,
    PriorityRequest,
    ProjectRequest,
    RetryRequest,
    RollbackRequest,
    SessionRequest,
)
from shared.keys import Role
from shared.specs import JOB
from shared.specs.retention import RetentionPolicy
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
    ContinueRequest,
    DatasetSource,
    DrainRequest,
    EventList,
    EventView,
    JobView,
    KeyRequest,
    LabelRoute,
    RetentionPolicy,
    PlanView,
    PredictRequest,
    Problem,
    ProgressView,
    ProjectRequest,
    RetryRequest,
    RollbackRequest,
    PriorityRequest,
    SessionRequest,
)
JOB_SPEC = {"$ref": _REF.format(model="JobSpec")}  # a union has no class to be named by
_PROBLEM = {PROBLEM_JSON: {"schema": {"$ref": _REF.format(model="Problem")}}}
_WHY = {
    400: "The body is not what its content type says.",
    401: "An API key is needed, or this one is not good.",
    403: "The key's role does not allow this; or a web page of another site asked.",
    404: "No such thing.",
    409: "It is there, but not in a state that allows this.",
    413: "The body is over the limit.",
    415: "This content type is not taken here.",
    422: "The input can't be used; 'field' names what to mend.",
    429: "Too many requests of this key; 'Retry-After' says when to go on.",
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


# Either header will do; where no key was ever made, none is needed.
_SCHEMES = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key."},
    "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": "A browser's session."},
}


def _describe_access(operation: dict[str, Any], rule: Rule) -> None:
    """Say who may use a route, and how others are answered."""
    answers = operation["responses"]
    described = problems(403)
    if not rule.public:
        operation["security"] = [{name: []} for name in _SCHEMES]
        operation["x-roles"] = [role.value for role in Role if role in rule.roles]
        described |= problems(401, 429)
    answers.update({str(status): answer for status, answer in described.items()})


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
    schema["components"]["securitySchemes"] = _SCHEMES
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            _describe_access(operation, TABLE.get(f"{method.upper()} {path}", UNKNOWN))
            answers = operation["responses"]
            described = answers.get("422")
            if described is not None and PROBLEM_JSON not in described.get("content", {}):
                answers["422"] = problems(422)[422]
            answers["default"] = {"description": "Any other error.", "content": _PROBLEM}
    schema["components"]["schemas"] = dict(sorted(schemas.items()))
    return schema
