"""What a job says while it runs: events, log, metrics; and the checkpoints it keeps."""

from __future__ import annotations

from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Header, Query
from starlette.responses import Response, StreamingResponse

from services.api import render, streams
from services.api.artifacts import folder_of
from services.api.deps import JobId, ResourcesDep, StoreDep
from services.api.describe import problems, ref
from shared.checkpoint_files import listing
from shared.errors import InvalidInput, NotFound
from shared.views import CheckpointList, EventList, MetricsView

router = APIRouter(tags=["jobs"])

EVENT_STREAM = "text/event-stream"
_BIGGEST = 2**62
_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_STREAM_EXAMPLE = (
    'id: 1\nevent: state\ndata: {"seq":1,"at":"2026-01-05T10:00:00.000000Z","type":"state","data":{"to":"queued"}}\n\n'
    'event: progress\ndata: {"epoch":1,"epochs":5,"step":120,"steps":469,...}\n\n'
    'event: end\ndata: {"id":"job_...","state":"succeeded",...}\n\n'
)


@router.get(
    "/jobs/{job_id}/events",
    operation_id="listJobEvents",
    summary="History as JSON, or live as server-sent events",
    response_model=EventList,
    responses={
        200: {
            "description": "A page of the history; or, with `Accept: text/event-stream`, the history and then what "
            "happens: stored events with their number as `id`, `progress` without one, and a last `end` with the job.",
            "content": {
                "application/json": {"schema": ref(EventList)},
                EVENT_STREAM: {"schema": {"type": "string"}, "example": _STREAM_EXAMPLE},
            },
        },
        **problems(404, 422, 503),
    },
)
async def list_job_events(
    job_id: JobId,
    resources: ResourcesDep,
    after: Annotated[int, Query(ge=0, le=_BIGGEST, description="Number of the last event seen.")] = 0,
    limit: Annotated[int, Query(ge=1, le=1000, description="Events on a page of JSON.")] = 200,
    accept: Annotated[str, Header(include_in_schema=False)] = "",
    last_event_id: Annotated[
        str | None, Header(description="Resumes a stream after this event, without a gap or a repeat.")
    ] = None,
) -> Response:
    """Events count from 1 without gaps."""
    store = resources.store
    job = await to_thread.run_sync(store.jobs.get, job_id)
    if EVENT_STREAM not in accept:
        found = await to_thread.run_sync(lambda: store.jobs.events(job_id, after=after, limit=limit))
        return render.answer(render.page(found, render.event))
    if last_event_id:
        if not last_event_id.isdecimal() or not last_event_id.isascii() or len(last_event_id) > 18:
            raise InvalidInput("Last-Event-ID is the number of an event.", field="Last-Event-ID")
        after = int(last_event_id)
    return StreamingResponse(
        streams.job_events(resources.watch, job, after), media_type=EVENT_STREAM, headers=_STREAM_HEADERS
    )


@router.get(
    "/jobs/{job_id}/logs",
    operation_id="getJobLog",
    summary="What the training program printed",
    response_class=Response,
    responses={
        200: {
            "description": "The log as text; empty before the job has written anything.",
            "content": {"text/plain": {"schema": {"type": "string"}}},
            "headers": {
                "X-Next-Offset": {
                    "description": "`offset` for what comes next; not sent with `follow`.",
                    "schema": {"type": "integer"},
                }
            },
        },
        **problems(404, 422, 503),
    },
)
async def get_job_log(
    job_id: JobId,
    resources: ResourcesDep,
    follow: Annotated[bool, Query(description="Go on until the job has ended.")] = False,
    offset: Annotated[int, Query(ge=0, le=_BIGGEST, description="Byte to begin at.")] = 0,
    tail: Annotated[
        int | None, Query(ge=1, le=100_000, description="Only so many lines from the end.")
    ] = None,
    member: Annotated[
        str | None,
        Query(
            pattern=r"^(worker|ps)-\d{1,3}$",
            description="Of a member of the job's cluster other than the chief; `run.cluster.members` names them.",
            examples=["worker-1"],
        ),
    ] = None,
) -> Response:
    """TensorFlow's own messages and tracebacks are in it, of all attempts."""
    job = await to_thread.run_sync(resources.store.jobs.get, job_id)
    runs = resources.settings.paths.runs.resolve()  # which may be a link of the operator's; below it are none
    path = runs / job.run_dir / streams.log_name(member) if job.run_dir else None
    if tail is not None and path is not None:
        offset = max(offset, await to_thread.run_sync(streams.tail_offset, path, tail))
    if follow:
        body = streams.job_log(resources.watch, job, runs, offset, member)
        headers = _STREAM_HEADERS
    else:
        end = await to_thread.run_sync(streams.size_of, path) if path else 0
        body = streams.stored_log(path, offset, end)
        headers = {"X-Next-Offset": str(end), "Cache-Control": "no-store"}
    return StreamingResponse(body, media_type="text/plain", headers=headers)


@router.get(
    "/jobs/{job_id}/metrics",
    operation_id="getJobMetrics",
    summary="Series of metrics",
    response_model=MetricsView,
    responses=problems(404, 422, 503),
)
def get_job_metrics(
    job_id: JobId,
    store: StoreDep,
    names: Annotated[
        str | None,
        Query(
            max_length=4000,
            pattern=r"^[^\x00]*$",
            description="Series, separated by commas; all when left out.",
            examples=["loss,val_loss"],
        ),
    ] = None,
    max_points: Annotated[
        int, Query(ge=1, le=10_000, description="Longer series are thinned evenly.")
    ] = 1000,
) -> Response:
    """Points are `[step, epoch, value, time]`; a value that is not finite is null."""
    if not store.jobs.pulses([job_id]):
        raise NotFound(f"There is no job {job_id!r}.", code="job_not_found")
    wanted = [name for name in (names or "").split(",") if name]
    found = store.jobs.metrics(job_id, names=wanted or None, max_points=max_points)
    return render.answer({"series": [render.series(item) for item in found]})


@router.get(
    "/jobs/{job_id}/checkpoints",
    operation_id="listJobCheckpoints",
    summary="The states of training that are kept",
    response_model=CheckpointList,
    responses=problems(404, 422, 503),
)
def list_job_checkpoints(
    job_id: JobId,
    resources: ResourcesDep,
    verify: Annotated[bool, Query(description="Read each file and compare its SHA-256.")] = True,
) -> Response:
    """Newest first, damaged ones too. An unchanged file is read once only."""
    job = resources.store.jobs.get(job_id)
    folder = folder_of(resources.settings.paths.runs, job.run_dir) if job.run_dir else None
    found = listing(folder, verify=verify) if folder is not None else []
    return render.answer(render.everything(render.checkpoint(item) for item in found))
