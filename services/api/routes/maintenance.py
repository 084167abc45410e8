"""Clean-up."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.responses import Response

from services.api import render
from services.api.body import checked, json_of
from services.api.deps import RawBody, ResourcesDep
from services.api.describe import json_body, problems
from shared.retention import CleanUp
from shared.specs.retention import RetentionPolicy
from shared.views import CleanUpView

router = APIRouter(tags=["operations"])

_EXAMPLES = {
    "month": (
        "After a month: one checkpoint a job, no event files; five versions a model",
        {
            "checkpoints": {"older_than_days": 30, "keep": 1},
            "event_files": {"older_than_days": 30},
            "versions": {"keep": 5, "older_than_days": 7},
        },
    ),
    "jobs": ("Jobs of more than a year ago", {"jobs": {"older_than_days": 365}}),
}


@router.post(
    "/maintenance/clean-up",
    operation_id="cleanUp",
    summary="Remove what rules allow to go",
    response_model=CleanUpView,
    responses=problems(400, 409, 413, 415, 422, 503),
    openapi_extra=json_body(RetentionPolicy, _EXAMPLES),
)
def clean_up(
    raw: RawBody,
    resources: ResourcesDep,
    dry_run: Annotated[bool, Query(description="Only say what would go.")] = True,
) -> Response:
    """Old checkpoints, event files, versions and jobs. Without `dry_run=false` nothing is removed.

    A version with a label, the default, the newest, and whatever a queued or running job needs stay in any case.
    """
    policy = checked(RetentionPolicy.model_validate, json_of(raw))
    cleaner = CleanUp(resources.store, resources.settings.paths, resources.serving_config)
    removed = cleaner.run(policy, dry=dry_run)
    if not dry_run:
        resources.model_server.forget()
    return render.answer(
        {
            "dry_run": dry_run,
            "counts": removed.counts,
            "size_bytes": removed.size_bytes,
            "things": [
                {"kind": one.kind, "name": one.name, "size_bytes": one.size_bytes} for one in removed.things
            ],
            "has_more": sum(removed.counts.values()) > len(removed.things),
        }
    )
