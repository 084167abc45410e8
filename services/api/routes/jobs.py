"""Jobs: submit, list, read, cancel, retry."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from services.api import render
from services.api.access.principal import Principal, principal_of
from services.api.body import checked, json_of, refuse_nul
from services.api.deps import (
    AfterId,
    IdempotencyKey,
    JobId,
    Limit,
    NameFilter,
    ParentFilter,
    RawBody,
    StoreDep,
    SubmissionDep,
)
from services.api.describe import JOB_SPEC, json_body, problems, ref
from services.api.requests import ContinueRequest, RetryRequest
from services.api.submission import fingerprint_of
from shared.jobs import Job, JobState
from shared.reproduction import TOLERANCE
from shared.specs import parse_job
from shared.views import JobList, JobView, PlanView, ReproductionView

router = APIRouter(tags=["jobs"])

_LOCATION = {"Location": {"description": "The new job.", "schema": {"type": "string"}}}
_EXAMPLES: dict[str, tuple[str, Any]] = {
    "fashion": (
        "LeNet-5 on Fashion-MNIST, published as 'fashion'",
        {
            "kind": "train",
            "model": {"builder": "lenet5"},
            "dataset": {"tfds": "fashion_mnist"},
            "fit": {"epochs": 5, "batch_size": 128, "optimizer": "adam"},
            "publish": {"model": "fashion", "label": "stable"},
        },
    ),
    "csv": (
        "A dense network on an uploaded csv file",
        {
            "kind": "train",
            "labels": {"team": "plants"},
            "model": {"builder": "mlp", "params": {"units": [64, 32], "dropout": 0.1}},
            "dataset": {"csv": "ds_06cf8m2k1x3q9r7t5vnw0a", "label": "species"},
            "fit": {"epochs": 30, "batch_size": 16},
            "publish": {"model": "iris"},
        },
    ),
    "tune": (
        "Eight trials of a grid, of which the best one is published",
        {
            "kind": "tune",
            "base": {
                "model": {"builder": "mlp"},
                "dataset": {"tfds": "fashion_mnist", "validation_split": 0.1},
                "fit": {"epochs": 5},
            },
            "space": {
                "units": {"choice": ["128,64", "256,128"]},
                "dropout": {"uniform": [0.0, 0.1]},
                "fit.optimizer": {"choice": ["adam", "sgd"]},
            },
            "sampler": "grid",
            "objective": {"metric": "val_accuracy", "mode": "max"},
            "publish": {"model": "fashion"},
        },
    ),
    "export": (
        "A published version for phones and for ONNX runtimes",
        {
            "kind": "export",
            "from": {"model": "fashion", "version": 3},
            "formats": ["onnx", {"format": "tflite", "quantization": "float16"}],
        },
    ),
}


def _who(request: Request) -> str:
    """The key's name; where there are no keys, the address is all that is known of a caller."""
    principal = principal_of(request)
    if principal.key_id is not None:
        return principal.name
    return f"a client at {request.client.host}" if request.client else "a client"


def _in_project(data: Any, principal: Principal) -> Any:
    """A job's body; without a project of its own it is in that of its caller's key.

    Raises:
        Forbidden: it names another one.
    """
    if isinstance(data, dict) and principal.project is not None:
        named = data.setdefault("project", principal.project)
        principal.check_project(named if isinstance(named, str) else "")
    return data


def _accepted(job: Job) -> Response:
    return render.answer(render.job(job), 202, {"Location": f"/jobs/{job.id}"})


@router.post(
    "/jobs",
    status_code=202,
    operation_id="submitJob",
    summary="Submit a job",
    response_model=JobView,
    responses={
        200: {
            "description": "The plan, with `dry_run`.",
            "content": {"application/json": {"schema": ref(PlanView)}},
        },
        202: {"description": "Accepted, and stored for good.", "headers": _LOCATION},
        **problems(400, 409, 413, 422, 503),
    },
    openapi_extra=json_body(JOB_SPEC, _EXAMPLES),
)
def submit_job(
    raw: RawBody,
    submission: SubmissionDep,
    request: Request,
    key: IdempotencyKey = None,
    dry_run: Annotated[bool, Query(description="Check only, and answer with the plan.")] = False,
) -> Response:
    """Checks the request, stores the job, and answers at once; a worker takes it up.

    The job is accepted also while the broker is down: it is then sent later.
    """
    data = _in_project(json_of(raw), principal_of(request))
    refuse_nul(raw)
    if dry_run:
        return render.answer(submission.plan(checked(parse_job, data)))
    fingerprint = fingerprint_of(data)
    job = submission.earlier(key, fingerprint)
    if job is None:
        job = submission.submit(checked(parse_job, data), key=key, fingerprint=fingerprint)
    return _accepted(job)


@router.get(
    "/jobs",
    operation_id="listJobs",
    summary="List jobs",
    response_model=JobList,
    responses=problems(422, 503),
)
def list_jobs(
    store: StoreDep,
    state: JobState | None = None,
    kind: Annotated[str | None, Query(pattern="^[a-z_]{1,16}$", examples=["train"])] = None,
    model: NameFilter = None,
    label: Annotated[
        str | None,
        Query(
            pattern=r"^[A-Za-z0-9_./-]{1,63}(=[^\x00]{0,63})?$",
            description="`key` or `key=value`.",
            examples=["team=plants"],
        ),
    ] = None,
    parent: ParentFilter = None,
    limit: Limit = 50,
    after: AfterId = None,
) -> Response:
    """Newest first. Trials of studies are left out, unless `parent` names their study."""
    found = store.jobs.find(
        state=state, kind=kind, model=model, label=label, parent=parent, after=after, limit=limit
    )
    return render.answer(render.page(found, render.job_in_list))


@router.get(
    "/jobs/{job_id}",
    operation_id="getJob",
    summary="Read a job",
    response_model=JobView,
    responses=problems(404, 503),
)
def get_job(job_id: JobId, store: StoreDep) -> Response:
    """Spec, state, stage, progress, attempts, metrics, and the error or the result."""
    return render.answer(render.job(store.jobs.get(job_id)))


@router.post(
    "/jobs/{job_id}/cancel",
    status_code=202,
    operation_id="cancelJob",
    summary="Cancel a job",
    response_model=JobView,
    responses=problems(404, 503),
)
def cancel_job(job_id: JobId, store: StoreDep, request: Request) -> Response:
    """A queued job ends at once, a running one after its checkpoint. Asking twice changes nothing."""
    return render.answer(render.job(store.jobs.request_cancel(job_id, _who(request))), 202)


@router.post(
    "/jobs/{job_id}/reproduce",
    status_code=202,
    operation_id="reproduceJob",
    summary="Train a finished job again",
    response_model=JobView,
    responses={
        202: {"description": "A new job; its `reproduces` names the old one.", "headers": _LOCATION},
        **problems(404, 409, 422, 503),
    },
)
def reproduce_job(job_id: JobId, submission: SubmissionDep, key: IdempotencyKey = None) -> Response:
    """The same spec, code and data; nothing is published. Data that have changed fail it before training."""
    return _accepted(submission.reproduce(job_id, key=key))


@router.get(
    "/jobs/{job_id}/reproduction",
    operation_id="getReproduction",
    summary="Compare a job with the one it reproduces",
    response_model=ReproductionView,
    responses=problems(404, 409, 422, 503),
)
def get_reproduction(
    job_id: JobId,
    submission: SubmissionDep,
    tolerance: Annotated[
        float,
        Query(ge=0, le=1, description="Largest difference of a metric, relative to it where it is over 1."),
    ] = TOLERANCE,
) -> Response:
    """Metrics of both, whether weights are equal to the bit, and what differs around them."""
    return render.answer(submission.reproduction(job_id, tolerance))


@router.post(
    "/jobs/{job_id}/continue",
    status_code=202,
    operation_id="continueStudy",
    summary="Go on with an ended study",
    response_model=JobView,
    responses={
        202: {"description": "A new tune job, which has the old one's trials.", "headers": _LOCATION},
        **problems(400, 404, 409, 422, 503),
    },
    openapi_extra=json_body(
        ContinueRequest, {"more": ("20 trials more", {"max_trials": 20})}, required=False
    ),
)
def continue_study(
    job_id: JobId, raw: RawBody, submission: SubmissionDep, key: IdempotencyKey = None
) -> Response:
    """Makes a new tune job whose optimiser knows the old one's complete and pruned trials. A changed space or another
    sampler goes with `POST /jobs` and `continue_from`.
    """
    request = checked(ContinueRequest.model_validate, json_of(raw)) if raw.strip() else ContinueRequest()
    return _accepted(submission.continue_study(job_id, max_trials=request.max_trials, key=key))


@router.post(
    "/jobs/{job_id}/retry",
    status_code=202,
    operation_id="retryJob",
    summary="Run a failed or cancelled job again",
    response_model=JobView,
    responses={
        202: {"description": "A new job; its `retry_of` names the old one.", "headers": _LOCATION},
        **problems(400, 404, 409, 422, 503),
    },
    openapi_extra=json_body(
        RetryRequest, {"scratch": ("Forget what was trained", {"from": "scratch"})}, required=False
    ),
)
def retry_job(job_id: JobId, raw: RawBody, submission: SubmissionDep, key: IdempotencyKey = None) -> Response:
    """Makes a new job with the same spec, since an ended job stays as it is."""
    wanted = checked(RetryRequest.model_validate, json_of(raw)) if raw.strip() else RetryRequest()
    return _accepted(submission.retry(job_id, resume=wanted.start == "checkpoint", key=key))
