"""Labels, rollback, and what happened to a model's traffic."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query
from starlette.responses import Response

from services.api import render
from services.api.body import checked, json_of
from services.api.deps import ModelName, RawBody, ResourcesDep, StoreDep
from services.api.describe import json_body, problems
from services.api.requests import RollbackRequest
from services.api.routes.models import model_answer
from shared.names import checked_name
from shared.specs.traffic import LabelRoute
from shared.views import LabelList, ModelEventList, ModelView

router = APIRouter(tags=["models"])

LabelName = Annotated[str, Path(examples=["stable"])]
_EXAMPLES = {
    "three": ("Version 3 from now on", {"version": 3}),
    "canary": (
        "A tenth to the canary, taken back by itself if it fails",
        {"split": {"stable": 90, "canary": 10}, "guard": {"max_error_rate": 0.02, "max_p95_ratio": 2}},
    ),
    "shadow": (
        "Copies of a quarter of the requests to version 4",
        {"version": 3, "shadow": {"to": 4, "percent": 25}},
    ),
}


@router.get(
    "/models/{model}/labels",
    operation_id="listLabels",
    summary="List a model's labels",
    response_model=LabelList,
    responses=problems(404, 503),
)
def list_labels(model: ModelName, resources: ResourcesDep) -> Response:
    """Where each sends its requests, what it was before, and what its guard has seen in this process."""
    guards = resources.model_server.guards
    labels = resources.store.labels.of(model)
    return render.answer(
        {
            "items": [render.label(item, guards.summaries(model, item.name)) for item in labels],
            "has_more": False,
        }
    )


@router.put(
    "/models/{model}/labels/{label}",
    operation_id="setLabel",
    summary="Point a label at a version, or split its requests",
    response_model=ModelView,
    responses=problems(400, 404, 409, 422, 503),
    openapi_extra=json_body(LabelRoute, _EXAMPLES),
)
def set_label(model: ModelName, label: LabelName, raw: RawBody, resources: ResourcesDep) -> Response:
    """In two steps: versions that are not loaded are loaded first, then the requests follow. None is lost.

    Answers when it is done. If a version can't be loaded, the label stays as it was.
    """
    checked_name(label, field="label")
    resources.traffic.put(model, label, checked(LabelRoute.model_validate, json_of(raw)))
    return model_answer(resources, model)


@router.delete(
    "/models/{model}/labels/{label}",
    status_code=204,
    operation_id="deleteLabel",
    summary="Remove a label",
    responses=problems(404, 503),
)
def delete_label(model: ModelName, label: LabelName, resources: ResourcesDep) -> Response:
    """A label that is not there is no error; an unknown model is."""
    checked_name(label, field="label")
    resources.traffic.delete(model, label)
    return Response(status_code=204)


@router.post(
    "/models/{model}/rollback",
    operation_id="rollback",
    summary="Go back to what was served before",
    response_model=ModelView,
    responses=problems(400, 404, 409, 422, 503),
    openapi_extra=json_body(
        RollbackRequest,
        {"stable": ("The label 'stable'", {"label": "stable"}), "two": ("To version 2", {"version": 2})},
        required=False,
    ),
)
def rollback(model: ModelName, raw: RawBody, resources: ResourcesDep) -> Response:
    """A label goes back to what it was before. A model without labels answers with the version before by default, until
    another is published.
    """
    request = checked(RollbackRequest.model_validate, json_of(raw)) if raw.strip() else RollbackRequest()
    resources.traffic.rollback(model, request.label, request.version)
    return model_answer(resources, model)


@router.get(
    "/models/{model}/events",
    operation_id="listModelEvents",
    summary="What happened to a model's labels",
    response_model=ModelEventList,
    responses=problems(404, 422, 503),
)
def list_model_events(
    model: ModelName,
    store: StoreDep,
    after: Annotated[int, Query(ge=0, le=2**62, description="Number of the last event seen.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000)] = 200,
) -> Response:
    """Moves, rollbacks, and versions that a guard has withdrawn, with the reason; oldest first."""
    found = store.labels.events(model, after=after, limit=limit)
    return render.answer(render.page(found, render.model_event))
