"""Is it up, is it ready, who works here, what does it cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import Response

from services.api import render
from services.api.access.principal import principal_in
from services.api.deps import ResourcesDep
from services.api.describe import problems, ref
from services.api.release import VERSION
from services.api.resources import Resources
from shared.errors import Unavailable
from shared.views import Health, WorkerList

router = APIRouter(tags=["operations"])

CHECK_SECONDS = 3.0


@router.head("/healthz", include_in_schema=False)  # load balancers may ask so
@router.get("/healthz", operation_id="getLiveness", summary="Liveness", response_model=Health)
async def get_liveness() -> Response:
    """The process answers. Asks nothing of anybody."""
    return render.answer({"status": "ok", "checks": {}, "version": VERSION})


@router.head("/readyz", include_in_schema=False)
@router.get(
    "/readyz",
    operation_id="getReadiness",
    summary="Readiness, by dependency",
    response_model=Health,
    responses={
        200: {"description": "`ok`; or `degraded`: jobs are accepted, but something else is missing."},
        503: {
            "description": "`unavailable`: the store does not answer.",
            "content": {"application/json": {"schema": ref(Health)}},
        },
    },
)
async def get_readiness(resources: ResourcesDep, request: Request) -> Response:
    """Asks the store, the broker, the model server, and whether a worker lives. `checks` is empty without an API key,
    where keys are asked for.
    """

    async def in_thread(ask: Callable[[Resources], Any]) -> Any:
        return await to_thread.run_sync(ask, resources, abandon_on_cancel=True)

    checks = dict(
        zip(
            ("store", "broker", "model_server", "workers"),
            await asyncio.gather(
                _checked(in_thread(lambda parts: parts.store.ping())),
                _checked(in_thread(lambda parts: parts.queue.depth()), "queue_depth"),
                _checked(resources.model_server.alive()),
                _checked(in_thread(_workers_alive), "alive"),
            ),
            strict=True,
        )
    )
    if not checks["store"]["ok"]:
        status = "unavailable"
    else:
        status = "ok" if all(check["ok"] for check in checks.values()) else "degraded"
    if principal_in(request.scope) is None:  # strangers need no list of what runs here
        checks = {}
    body = {"status": status, "checks": checks, "version": VERSION}
    return render.answer(body, 503 if status == "unavailable" else 200, {"Cache-Control": "no-store"})


def _workers_alive(resources: Resources) -> int:
    alive = resources.store.workers.count_alive(within_seconds=resources.alive_within)
    if alive == 0:
        raise Unavailable("No worker was heard of lately.", hint="Start one: python -m services.worker.")
    return alive


async def _checked(ask: Awaitable[Any], member: str | None = None) -> dict[str, Any]:
    began = time.perf_counter()
    found: dict[str, Any] = {}
    error: str | None = None
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            value = await ask
        if member is not None:
            found[member] = value
    except Unavailable as failure:
        error = " ".join(filter(None, (failure.message, failure.hint)))
    except TimeoutError:
        error = f"No answer within {CHECK_SECONDS:.0f} s."
    latency = round((time.perf_counter() - began) * 1000, 2)
    return {"ok": error is None, "latency_ms": latency, "error": error, **found}


@router.get(
    "/workers",
    operation_id="listWorkers",
    summary="List workers",
    response_model=WorkerList,
    responses=problems(503),
)
def list_workers(resources: ResourcesDep) -> Response:
    """Their devices, versions and jobs; `alive` says whether they were heard of lately."""
    lease = resources.settings.lease_seconds
    within = resources.alive_within
    return render.answer(
        render.everything(
            render.worker(item, alive_within=within, lease_seconds=lease)
            for item in resources.store.workers.find()
        )
    )


@router.get(
    "/metrics",
    operation_id="getPrometheusMetrics",
    summary="Prometheus metrics",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
def get_prometheus_metrics(resources: ResourcesDep) -> Response:
    """Requests, predictions, jobs by state, queue depth, live workers."""
    return Response(resources.telemetry.exposition(), media_type=CONTENT_TYPE_LATEST)
