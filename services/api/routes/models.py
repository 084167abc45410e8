"""Published models: versions, labels, serving state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from services.api import render
from services.api.deps import Limit, ModelName, NameFilter, ResourcesDep, VersionNumber
from services.api.describe import problems
from services.api.resources import Resources
from shared.errors import Unavailable
from shared.serving_client import VersionState
from shared.views import ModelList, ModelView, VersionList, VersionView

router = APIRouter(tags=["models"])

AVAILABLE = "AVAILABLE"


def _states(resources: Resources, names: Iterable[str]) -> dict[str, dict[int, VersionState]]:
    """What the model server says of each model; nothing for those it can't be asked about."""
    known: dict[str, dict[int, VersionState]] = {}
    try:
        for name in names:
            known[name] = resources.serving.states(name)
    except Unavailable:
        pass  # the list is worth more than its serving states; /readyz says what is down
    return known


def _available(states: dict[int, VersionState]) -> list[int]:
    return sorted(number for number, state in states.items() if state.state == AVAILABLE)


def model_answer(resources: Resources, name: str) -> Response:
    """``ModelView`` as it is now."""
    record = resources.store.models.get(name)
    states = _states(resources, [name]).get(name, {})
    return render.answer(render.model(record, _available(states)))


@router.get(
    "/models", operation_id="listModels", summary="List models", response_model=ModelList,
    responses=problems(422, 503),
)  # fmt: skip
def list_models(resources: ResourcesDep, limit: Limit = 50, after: NameFilter = None) -> Response:
    """By name; `after` is the last name of the page before."""
    found = resources.store.models.find(after=after, limit=limit)
    states = _states(resources, [item.name for item in found.items])
    return render.answer(
        render.page(found, lambda item: render.model(item, _available(states.get(item.name, {}))))
    )


@router.get(
    "/models/{model}", operation_id="getModel", summary="Read a model", response_model=ModelView,
    responses=problems(404, 503),
)  # fmt: skip
def get_model(model: ModelName, resources: ResourcesDep) -> Response:
    """Its labels, its latest version, and which versions are served."""
    return model_answer(resources, model)


@router.get(
    "/models/{model}/versions",
    operation_id="listVersions",
    summary="List a model's versions",
    response_model=VersionList,
    responses=problems(404, 422, 503),
)
def list_versions(
    model: ModelName,
    resources: ResourcesDep,
    limit: Limit = 50,
    after: Annotated[
        int | None, Query(ge=0, le=2**62, description="Last version of the page before.")
    ] = None,
) -> Response:
    """Newest first."""
    found = resources.store.models.versions(model, after=after, limit=limit)
    states = _states(resources, [model] if found.items else []).get(model, {})
    return render.answer(
        render.page(
            found,
            lambda item: render.version(item, states[item.version].state if item.version in states else None),
        )
    )


@router.get(
    "/models/{model}/versions/{version}",
    operation_id="getVersion",
    summary="Read a version",
    response_model=VersionView,
    responses=problems(404, 503),
)
def get_version(model: ModelName, version: VersionNumber, resources: ResourcesDep) -> Response:
    """Signatures, metrics, lineage, labels, and its state on the model server."""
    record = resources.store.models.version(model, version)
    state = _states(resources, [model]).get(model, {}).get(version)
    return render.answer(render.version(record, state.state if state else None))


@router.delete(
    "/models/{model}/versions/{version}",
    status_code=204,
    operation_id="deleteVersion",
    summary="Delete a version and its files",
    responses=problems(404, 409, 503),
)
def delete_version(model: ModelName, version: VersionNumber, resources: ResourcesDep) -> Response:
    """Refused while a label leads to it. Its number is never used again."""
    resources.store.models.delete_version(model, version)
    resources.serving_config.write()
    resources.repo.remove(model, version)
    resources.model_server.forget()
    return Response(status_code=204)
