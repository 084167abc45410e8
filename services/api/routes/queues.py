"""Who waits for whom: explanations, priorities, projects and their limits, workers that drain."""

from __future__ import annotations

import logging
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.responses import Response

from services.api import render
from services.api.body import checked, json_of
from services.api.deps import JobId, RawBody, ResourcesDep, StoreDep
from services.api.describe import json_body, problems
from services.api.explaining import Explaining
from services.api.requests import DrainRequest, PriorityRequest, ProjectRequest
from services.api.resources import Resources
from shared.errors import NotFound, Unavailable
from shared.names import checked_name
from shared.store import Project, Worker
from shared.views import ExplainView, JobView, ProjectList, ProjectView, WorkerView

router = APIRouter()
log = logging.getLogger(__name__)

ProjectName = Annotated[str, Path(max_length=200, examples=["vision"])]
WorkerId = Annotated[str, Path(max_length=200, examples=["gpu-host-4711-83920184"])]
WOKEN_AT_ONCE = 32  # the sweeper wakes the rest


@router.get(
    "/jobs/{job_id}/explain",
    tags=["jobs"],
    operation_id="explainJob",
    summary="Why a job waits",
    response_model=ExplainView,
    responses=problems(404, 503),
)
def explain_job(job_id: JobId, resources: ResourcesDep) -> Response:
    """Why it waits, who is ahead of it and about how long; or what it does now."""
    explaining = Explaining(resources.store, alive_within=resources.alive_within)
    return render.answer(explaining.explain(job_id))


@router.put(
    "/jobs/{job_id}/priority",
    tags=["jobs"],
    operation_id="setPriority",
    summary="Change a job's priority",
    response_model=JobView,
    responses=problems(400, 404, 409, 422, 503),
    openapi_extra=json_body(PriorityRequest, {"urgent": ("Before all others", {"priority": 100})}),
)
def set_priority(job_id: JobId, raw: RawBody, store: StoreDep) -> Response:
    """Higher ones are taken up first. A study's goes for its trials too, those that wait included."""
    request = checked(PriorityRequest.model_validate, json_of(raw))
    return render.answer(render.job(store.jobs.set_priority(job_id, request.priority)))


@router.get(
    "/projects",
    tags=["operations"],
    operation_id="listProjects",
    summary="List projects",
    response_model=ProjectList,
    responses=problems(503),
)
def list_projects(store: StoreDep) -> Response:
    """Those that have, or had, jobs or a limit, with what they have waiting and running."""
    return render.answer(render.everything(render.project(one) for one in store.projects.find()))


@router.get(
    "/projects/{project}",
    tags=["operations"],
    operation_id="getProject",
    summary="Read a project",
    response_model=ProjectView,
    responses=problems(404, 503),
)
def get_project(project: ProjectName, store: StoreDep) -> Response:
    """Its limit, and how many of its jobs wait and run."""
    found = next((one for one in store.projects.find() if one.name == project), None)
    if found is None:
        raise NotFound(
            f"There is no project {project[:80]!r}.",
            code="project_not_found",
            hint="A project is there as soon as a job or PUT /projects/{project} names it.",
        )
    return render.answer(render.project(found))


@router.put(
    "/projects/{project}",
    tags=["operations"],
    operation_id="setProject",
    summary="Limit a project",
    response_model=ProjectView,
    responses=problems(400, 422, 503),
    openapi_extra=json_body(
        ProjectRequest,
        {"limit": ("At most four at once", {"max_running": 4}), "free": ("No limit", {"max_running": None})},
    ),
)
def set_project(project: ProjectName, raw: RawBody, resources: ResourcesDep) -> Response:
    """How many of its jobs may run at once; 0 holds all back, null lifts the limit. What runs goes on."""
    name = checked_name(project, field="project")
    request = checked(ProjectRequest.model_validate, json_of(raw))
    found = resources.store.projects.set_limit(name, request.max_running)
    _wake_for(resources, found)
    return render.answer(render.project(found))


@router.post(
    "/workers/{worker_id}/drain",
    tags=["operations"],
    operation_id="drainWorker",
    summary="Drain a worker",
    response_model=WorkerView,
    responses=problems(400, 404, 422, 503),
    openapi_extra=json_body(DrainRequest, {"now": ("Give its jobs back too", {"now": True})}, required=False),
)
def drain_worker(worker_id: WorkerId, raw: RawBody, resources: ResourcesDep) -> Response:
    """It takes no more jobs from this moment on, and finishes those it has; with `now`, they write a checkpoint and go
    back to the queue. A worker that is started again after an orderly stop takes jobs; after a crash it drains on.
    """
    request = checked(DrainRequest.model_validate, json_of(raw)) if raw.strip() else DrainRequest()
    resources.store.workers.drain(worker_id, now=request.now)
    return _answer(resources, _worker(resources, worker_id))


@router.post(
    "/workers/{worker_id}/undrain",
    tags=["operations"],
    operation_id="undrainWorker",
    summary="Have a worker take jobs again",
    response_model=WorkerView,
    responses=problems(404, 503),
)
def undrain_worker(worker_id: WorkerId, resources: ResourcesDep) -> Response:
    """Within a few seconds: it learns of it with its next heartbeat."""
    resources.store.workers.undrain(worker_id)
    worker = _worker(resources, worker_id)
    for queue in set(resources.store.claims.waiting_queues()).intersection(worker.queues):
        _wake(resources, queue, worker.slots)
    return _answer(resources, worker)


def _worker(resources: Resources, worker_id: str) -> Worker:
    for one in resources.store.workers.find():
        if one.id == worker_id:
            return one
    raise NotFound(f"The worker {worker_id[:120]!r} has just left.", code="worker_not_found")


def _answer(resources: Resources, worker: Worker) -> Response:
    lease_seconds = resources.settings.lease_seconds
    view = render.worker(worker, alive_within=resources.alive_within, lease_seconds=lease_seconds)
    return render.answer(view)


def _wake_for(resources: Resources, project: Project) -> None:
    """A project that has more room now may have jobs whose wake-ups were used up while it had none."""
    room = project.queued if project.max_running is None else project.max_running - project.running
    for queue in resources.store.projects.waiting_queues(project.name):
        _wake(resources, queue, min(room, project.queued))


def _wake(resources: Resources, queue: str, slots: int) -> None:
    try:
        for _ in range(max(0, min(slots, WOKEN_AT_ONCE))):
            resources.queue.send("wake", queue)
    except Unavailable as error:
        log.warning("the sweeper will wake the workers of queue %s: %s", queue, error.message)
