"""Puts the application together: routes, error translations, the edge, and a lifespan that builds what they need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from services.api import describe, errors
from services.api.edge import Edge
from services.api.release import VERSION
from services.api.resources import open_resources
from services.api.routes import (
    artifacts,
    builders,
    datasets,
    health,
    job_output,
    jobs,
    models,
    predict,
    root,
    traffic,
)
from services.api.telemetry import Telemetry
from shared.settings import Settings

_TAGS = [
    {"name": "jobs", "description": "Training jobs: submit, follow, cancel, retry."},
    {"name": "artifacts", "description": "Files of jobs: exports, checkpoints, logs."},
    {"name": "datasets", "description": "Uploaded csv and npz files."},
    {"name": "models", "description": "Published models, their versions and labels."},
    {
        "name": "predict",
        "description": "Ask a served model. TensorFlow Serving's own REST paths below `/v1/models/` work too.",
    },
    {"name": "operations", "description": "Health, workers, metrics."},
]
_ABOUT = """\
Trains, exports and serves Keras models.

Errors are `application/problem+json` with a stable `code`, a `detail` for people, the offending `field` and a `hint`.
Lists take `limit` and `after` and say `has_more`. Times are RFC 3339, UTC. Every answer has an `X-Request-Id`.
"""


def create_app(settings: Settings) -> FastAPI:
    """The application; it touches nothing outside before its lifespan begins."""
    telemetry = Telemetry()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with open_resources(settings, telemetry) as resources:
            app.state.resources = resources
            yield

    app = FastAPI(
        title="Modelyard",
        summary="Train, export and serve Keras models behind one REST API.",
        description=_ABOUT,
        version=VERSION,
        openapi_tags=_TAGS,
        redoc_url=None,
        redirect_slashes=False,  # an absolute Location would be wrong behind a proxy
        lifespan=lifespan,
    )
    app.add_middleware(
        Edge,
        max_body_mb=settings.max_body_mb,
        max_upload_mb=settings.max_upload_mb,
        telemetry=telemetry,
    )
    errors.install(app)
    describe.install(app)
    for part in (jobs, job_output, artifacts, builders, datasets, models, traffic, predict, health, root):
        app.include_router(part.router)
    return app
