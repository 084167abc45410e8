"""What clients see: the JSON bodies of the HTTP API, shared by the API that writes them and the client that reads them.

Times are RFC 3339 in UTC. Lists carry ``has_more``; pass the last item's id as ``after`` for the next page.
The records that the store keeps are in ``shared.jobs``; these are apart on purpose.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from shared.failure_codes import CODES
from shared.jobs import AttemptOutcome, JobState
from shared.keys import Role


class View(BaseModel):
    """Readers ignore members they do not know, so that an older client can talk to a newer API."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Problem(View):
    """An error, as ``application/problem+json`` (RFC 9457) with a stable ``code``."""

    type: str = Field(examples=["about:blank"])
    title: str
    status: int
    detail: str
    code: str = Field(examples=["invalid_input"])
    field: str | None = Field(None, description="Dotted path of the offending input field.")
    hint: str | None = Field(None, description="What to do about it.")
    errors: list[dict[str, Any]] | None = Field(
        None, description="All offending fields, when there are several."
    )
    request_id: str | None = None


class ProgressView(View):
    epoch: int = Field(description="Epoch under way, from 1.")
    epochs: int
    step: int = Field(description="Steps done in this epoch.")
    steps: int = Field(description="Steps in an epoch.")
    fraction: float = Field(description="Share of all steps done, 0 to 1.")
    eta_seconds: float | None
    steps_per_second: float | None
    metrics: dict[str, float | None] = Field(description="Running means of this epoch; null: not finite.")
    trials: dict[str, int] | None = Field(
        None,
        description="Of a study, in numbers: total, inherited, complete, pruned, failed, cancelled, and open ones, "
        "which wait or run.",
    )


class AttemptView(View):
    number: int
    worker_id: str
    started_at: datetime
    finished_at: datetime | None
    outcome: AttemptOutcome | None
    error: dict[str, Any] | None


class ErrorView(View):
    code: str = Field(description="Stable; docs/errors.md has all of them.", examples=sorted(CODES))
    message: str = Field(description="What went wrong, in a sentence.")
    hint: str | None = Field(None, description="What to do about it.")
    detail: str | None = Field(None, description="The end of the job's log.")


class ResultView(View):
    model: str | None = Field(None, description="Name it is served under.")
    version: int | None = Field(None, description="Version that the model server says is AVAILABLE.")
    metrics: dict[str, float | None] = Field({}, description="Final evaluation.")
    epochs: int | None = None
    steps: int | None = None
    values: list[float] | None = Field(None, description="Of a trial or a study: the objectives' values.")
    trial: int | None = Field(None, description="Of a study: the number of the best trial.")
    job: str | None = Field(None, description="The best trial's job.")
    params: dict[str, Any] | None = Field(None, description="The best trial's parameters.")
    trials: int | None = Field(None, description="How many trials were begun.")
    front: list[int] | None = Field(
        None, description="Numbers of the trials on the Pareto front, where there are several objectives."
    )


class JobView(View):
    id: str
    kind: str
    name: str | None
    state: JobState
    stage: str | None = Field(description="What a running job is doing, e.g. preparing_data, training.")
    project: str = "default"
    priority: int = 0
    queue: str = Field("default", description="Workers that serve it take the job.")
    request_id: str | None = Field(None, description="X-Request-Id of the request that made it.")
    labels: dict[str, str]
    spec: dict[str, Any] = Field(description="The request with all defaults filled in.")
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested: bool
    retry_at: datetime | None = Field(None, description="A queued job is not taken up before.")
    attempt: int = Field(description="0 before the first claim.")
    max_attempts: int
    attempts: list[AttemptView] | None = Field(None, description="Null in lists.")
    worker_id: str | None
    progress: ProgressView | None
    metrics: dict[str, Any] = Field(description='{"latest": {...}, "best": {...}} by metric name.')
    run: dict[str, Any] = Field(description="Facts: devices, versions, parameters, rows, classes, timings.")
    error: ErrorView | None
    result: ResultView | None
    retry_of: str | None
    parent: str | None = Field(None, description="The tune job that this one is a trial of.")
    reproduces: str | None = Field(None, description="The job that this one trains again.")
    links: dict[str, str]


class JobList(View):
    items: list[JobView]
    has_more: bool


class MetricPairView(View):
    before: float | None = Field(description="Null: not finite, or not there.")
    after: float | None
    difference: float | None


class DifferenceView(View):
    what: str = Field(examples=["versions.keras"])
    before: Any
    after: Any


class ReproductionView(View):
    """How a job that was trained again came out."""

    job: str
    reproduces: str
    outcome: Literal["bit_equal", "within_tolerance", "different"]
    reproduced: bool = Field(
        description="Bit-equal, which a deterministic job owes in the same surroundings; for all others, within "
        "the tolerance."
    )
    deterministic: bool
    tolerance: float
    metrics: dict[str, MetricPairView]
    weights_equal: bool | None = Field(description="To the last bit; null: not recorded.")
    differences: list[DifferenceView] = Field(
        description="What differs around them: versions, code, machine, devices, options, data."
    )


class TrialPlanView(View):
    count: int = Field(description="Trials, if nothing ends the study before.")
    inherited: int = Field(description="Ended trials that are taken over from the study that it continues.")
    parameters: list[str] = Field(description="In the order in which they are drawn.")
    examples: list[dict[str, Any]] = Field(
        description="The first parameters of a grid, or corners of the space."
    )


class PlanView(View):
    """Answer to ``POST /jobs?dry_run=true``: the job as it would run. Nothing was stored."""

    spec: dict[str, Any]
    epochs: int | None = Field(description="Null for jobs that do not train.")
    batch_size: int | None
    dataset: dict[str, Any] | None
    source: dict[str, Any] | None = Field(None, description="The model that the job starts from.")
    code: dict[str, Any] = Field({}, description="Content hashes of the user's own builders.")
    next_version: int | None = Field(
        description="Version that would be published next, if nothing else is first."
    )
    trials: TrialPlanView | None = Field(None, description="Of a tune job.")
    warnings: list[str]


class EventView(View):
    seq: int
    at: datetime
    type: str
    data: dict[str, Any]


class EventList(View):
    items: list[EventView]
    has_more: bool


class ArtifactView(View):
    name: str = Field(description="Path within the run, with slashes.", examples=["export/model.onnx"])
    format: str = Field(
        description="saved_model, keras, h5, weights, tflite, onnx, npz, json, tensorboard, ..."
    )
    size_bytes: int
    sha256: str | None = Field(
        description="Null for what a page had no time to read: the next request has it."
    )
    created_at: datetime = Field(description="When it was last written.")
    url: str = Field(description="Where it is downloaded.")


class ArtifactList(View):
    items: list[ArtifactView]
    has_more: bool


class SeriesView(View):
    name: str
    points: list[tuple[int, int, float | None, datetime]] = Field(description="[step, epoch, value, time]")
    total: int = Field(description="Points stored; fewer are shown when down-sampled.")


class MetricsView(View):
    series: list[SeriesView]


class CheckpointView(View):
    path: str = Field(description="Relative to the run's folder.")
    epoch: int | None = Field(description="Whole epochs done; null when it can't be read.")
    step: int | None = Field(description="Steps of the next epoch done.")
    total: int | None = Field(description="Optimizer steps since the job began.")
    size_bytes: int
    sha256: str | None
    metrics: dict[str, float | None] = Field(description="As they stood; val_ ones at an epoch's end only.")
    best: bool = Field(description="The best so far, by the job's checkpoint.best.")
    complete: bool = Field(description="Training has ended there.")
    written_at: datetime | None
    verified: bool | None = Field(description="Its bytes have the SHA-256; null: not looked at.")
    problem: str | None = Field(description="What is wrong with it; a later attempt passes it over.")


class CheckpointList(View):
    items: list[CheckpointView]
    has_more: bool


class DatasetView(View):
    id: str
    name: str
    kind: Literal["csv", "npz", "images", "tfrecord", "keras", "h5", "weights"]
    size_bytes: int
    sha256: str
    created_at: datetime
    info: dict[str, Any] = Field(
        description="csv: columns with statistics, rows, preview; npz: arrays with shape and dtype; images: folders "
        "with counts, formats, sizes; tfrecord: records, features, preview."
    )


class DatasetList(View):
    items: list[DatasetView]
    has_more: bool


class VersionView(View):
    model: str
    version: int
    job_id: str | None
    created_at: datetime
    size_bytes: int
    metrics: dict[str, float | None]
    signatures: dict[str, Any] = Field(description="name -> inputs and outputs with dtype and shape.")
    classes: list[str] | None
    lineage: dict[str, Any] = Field(description="Job, dataset hash, code version, package versions.")
    labels: list[str]
    serving_state: str | None = Field(
        description="As the model server says; null: it does not know the version."
    )


class VersionList(View):
    items: list[VersionView]
    has_more: bool


class ModelView(View):
    name: str
    created_at: datetime
    latest_version: int | None
    labels: dict[str, int] = Field(description="The version that gets most of each label's requests.")
    default_version: int | None = Field(
        None,
        description="What answers without version and label after a rollback; null: the highest AVAILABLE.",
    )
    serving_versions: list[int] = Field(description="Versions the model server says are AVAILABLE.")


class ModelList(View):
    items: list[ModelView]
    has_more: bool


class LabelView(View):
    name: str
    version: int = Field(description="The version that gets most of its requests.")
    route: dict[str, Any] = Field(description="As it was set: version or split, shadow, guard.")
    history: list[dict[str, Any]] = Field(description="Earlier routes and until when, the last one last.")
    updated_at: datetime
    seen: dict[str, Any] = Field(
        description="Of a guarded label, by target: requests, error rate and 95th percentile in the guard's window, in "
        "the process that answers."
    )


class LabelList(View):
    items: list[LabelView]
    has_more: bool


class ModelEventView(View):
    seq: int
    at: datetime
    type: str = Field(examples=["label", "label_deleted", "withdrawn", "default"])
    data: dict[str, Any]


class ModelEventList(View):
    items: list[ModelEventView]
    has_more: bool


class GoingView(View):
    kind: str  # checkpoint, event_file, version, job
    name: str
    size_bytes: int


class CleanUpView(View):
    """What a clean-up removed, or would remove; ``things`` names the first thousand."""

    dry_run: bool
    counts: dict[str, int]
    size_bytes: int
    things: list[GoingView]
    has_more: bool


class WorkerView(View):
    id: str
    host: str
    pid: int
    started_at: datetime
    heartbeat_at: datetime
    alive: bool
    slots: int
    queues: list[str] = Field(["default"], description="Queues whose jobs it takes.")
    draining: Literal["finish", "now"] | None = Field(
        None,
        description="It takes no more jobs: finish: it ends those it has; now: it gives them back. Null: it works.",
    )
    jobs: list[str] = Field(description="Jobs it runs now.")
    lease_age_seconds: float | None = Field(description="Seconds since a lease of its was last renewed.")
    info: dict[str, Any] = Field(
        description="What TensorFlow finds there: `devices` (physical: name, type, model, memory_mb, "
        "compute_capability), `logical_devices`, `build` (cuda, rocm, xla and their versions), `cpu` (model, cores, "
        "features), `versions`; `warm` or not. Empty until the worker has looked."
    )


class ReasonView(View):
    code: str = Field(examples=["project_limit"])
    message: str


class ExplainView(View):
    """Why a job waits, or what it does."""

    id: str
    state: JobState
    stage: str | None
    project: str
    priority: int
    queue: str
    summary: str = Field(description="The first reason, in a sentence.")
    reasons: list[ReasonView] = Field(
        description="All that holds it up. Codes: no_worker, draining, project_limit, ahead, workers_busy, "
        "retry_pause, waiting_for_workers, about_to_start; of a study: study, trials, "
        "publishing; else its stage, or ended."
    )
    ahead: int | None = Field(
        description="Jobs that have their turn before it, as things stand; null when it does not wait for a slot."
    )
    ahead_first: list[str] = Field(
        description="The first few of those that are older or of a higher priority."
    )
    starts_in_seconds: float | None = Field(
        description="A guess from how long recent jobs of its queue took; null: unknown."
    )
    ends_in_seconds: float | None = Field(description="Likewise; of a training job, its own guess.")


class ProjectView(View):
    name: str
    max_running: int | None = Field(description="Jobs that may run at once; null: no limit.")
    queued: int
    running: int = Field(description="Jobs that hold a slot; a study does not, its trials do.")


class ProjectList(View):
    items: list[ProjectView]
    has_more: bool


class WorkerList(View):
    items: list[WorkerView]
    has_more: bool


class PredictRequest(BaseModel):
    """One of ``instances`` (row by row) or ``inputs`` (by column), as TensorFlow Serving's REST API takes them."""

    model_config = ConfigDict(extra="forbid")

    model: str = Field(examples=["fashion"])
    version: int | None = Field(None, ge=0, description="Null: the highest AVAILABLE version.")
    label: str | None = Field(None, description="Instead of a version.")
    signature_name: str | None = Field(
        None, description="Null: serving_default, or image_bytes when every instance is {'b64': ...}."
    )
    instances: list[Any] | None = None
    inputs: Any | None = None


class PredictResponse(View):
    model: str
    version: int | None = Field(description="Version that answered.")
    predictions: list[Any] | None = Field(None, description="Answer to instances, one entry each.")
    outputs: Any | None = Field(None, description="Answer to inputs.")


class ParameterView(View):
    name: str
    required: bool
    default: Any = Field(None, description="Null also where it is no plain value.")


class FunctionView(View):
    parameters: list[ParameterView] = Field(
        description="As far as they can be read without running the code."
    )
    open: bool = Field(description="Other parameters than those listed may be given.")
    doc: str | None


class BuilderView(View):
    """A builder that jobs may name; code of the user's own is read, never run, to describe it."""

    name: str
    source: str = Field(examples=["built in", "folder /srv/code", "package mynets 1.2"])
    sha256: str | None = Field(description="Over all its .py files; null for built-in ones.")
    doc: str | None
    build_model: FunctionView | None = Field(description="Null: it can't be a job's model.")
    make_dataset: FunctionView | None = Field(description="Null: it can't be a job's dataset.")
    problem: str | None = Field(description="Why it can't be used; null when it can.")


class BuilderList(View):
    items: list[BuilderView]
    has_more: bool


class Health(View):
    status: Literal["ok", "degraded", "unavailable"]
    checks: dict[str, Any] = {}
    version: str


class KeyView(View):
    """A key without its secret."""

    id: str
    name: str
    prefix: str = Field(description="How the key begins, after `mdy_`.")
    role: Role
    project: str | None = Field(description="The only project it may act in.")
    limits: dict[str, Any] = Field(description="Its own limits; those left out are its role's.")
    live: bool = Field(description="Neither revoked nor expired.")
    created_at: datetime
    created_by: str
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None = Field(description="To within a minute.")


class NewKeyView(KeyView):
    """As it is answered once, when it is made."""

    key: str = Field(description="The key itself. It is shown here and nowhere else.")


class KeyList(View):
    items: list[KeyView]
    has_more: bool


class SessionView(View):
    """Who the caller is."""

    key_id: str | None = Field(description="None where no key was ever made.")
    name: str
    role: Role
    project: str | None
    via: str = Field(description="key, session, launcher or open.")


class AuditView(View):
    seq: int
    at: datetime
    key_id: str | None
    who: str = Field(description="The key's name.")
    role: Role | None
    method: str
    route: str
    target: str = Field(description="The path, or the address of what was made.")
    status: int
    request_id: str
    address: str | None


class AuditList(View):
    items: list[AuditView]
    has_more: bool
