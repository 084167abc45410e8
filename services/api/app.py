"""Puts the application together: routes, error translations, the edge, and a lifespan that builds what they need."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.middleware import Middleware
from starlette.types import ASGIApp

from services.api import describe, errors
from services.api.access.door import Door
from services.api.edge import Edge
from services.api.express import Express
from services.api.hot_path import HotPath
from services.api.release import VERSION
from services.api.resources import open_resources
from services.api.routes import (
    artifacts,
    builders,
    datasets,
    health,
    job_output,
    jobs,
    keys,
    maintenance,
    models,
    predict,
    queues,
    root,
    sessions,
    studies,
    traffic,
)
from services.api.telemetry import Telemetry
from shared.settings import Settings

_TAGS = [
    {"name": "jobs", "description": "Training jobs: submit, follow, cancel, retry."},
    {"name": "studies", "description": "Tune jobs: trials, the best so far, importance of parameters."},
    {"name": "artifacts", "description": "Files of jobs: exports, checkpoints, logs."},
    {"name": "datasets", "description": "Uploaded csv and npz files."},
    {"name": "models", "description": "Published models, their versions and labels."},
    {
        "name": "predict",
        "description": "Ask a served model. TensorFlow Serving's own REST paths below `/v1/models/` work too.",
    },
    {"name": "access", "description": "API keys, sessions of browsers, the audit log."},
    {"name": "operations", "description": "Health, workers, metrics."},
]
_ABOUT = """\
Trains, exports and serves Keras models.

Errors are `application/problem+json` with a stable `code`, a `detail` for people, the offending `field` and a `hint`.
Lists take `limit` and `after` and say `has_more`. Times are RFC 3339, UTC. Every answer has an `X-Request-Id`.
"""


class _Api(FastAPI):
    """FastAPI, with predictions answered before it: each middleware lies around both alike.

    ``quick``: for ``shared.wire``, once the lifespan has begun.
    """

    quick: Express | None = None

    def build_middleware_stack(self) -> ASGIApp:
        self.user_middleware.append(Middleware(HotPath))  # the innermost, whatever is added and when
        return super().build_middleware_stack()


def create_app(settings: Settings) -> FastAPI:
    """The application; it touches nothing outside before its lifespan begins."""
    telemetry = Telemetry()

    @asynccontextmanager
    async def lifespan(app: _Api) -> AsyncIterator[None]:
        async with open_resources(settings, telemetry) as resources:
            app.state.resources = resources
            app.quick = Express(resources, settings)
            yield

    app = _Api(
        title="Modelyard",
        summary="Train, export and serve Keras models behind one REST API.",
        description=_ABOUT,
        version=VERSION,
        openapi_tags=_TAGS,
        redoc_url=None,
        redirect_slashes=False,  # an absolute Location would be wrong behind a proxy
        lifespan=lifespan,
    )
    app.add_middleware(Door)  # inside the edge, for what is added last is outermost
    app.add_middleware(
        Edge,
        max_body_mb=settings.max_body_mb,
        max_upload_mb=settings.max_upload_mb,
        telemetry=telemetry,
    )
    errors.install(app)
    describe.install(app)
    for part in (
        maintenance,
        jobs,
        job_output,
        studies,
        artifacts,
        builders,
        datasets,
        models,
        traffic,
        predict,
        health,
        keys,
        queues,
        sessions,
        root,
    ):
        app.include_router(part.router)
    return app
