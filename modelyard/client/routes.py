"""Every request the API knows, as a ``Call``. No network here."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal
from urllib.parse import quote

from pydantic import BaseModel

from modelyard.client.call import Call, model, nothing
from shared.names import checked_name
from shared.specs import JobSpec
from shared.study_views import HistoryView, ImportanceView, ParallelView, StudyView, TrialList
from shared.views import (
    ArtifactList,
    AuditList,
    BuilderList,
    CheckpointList,
    CleanUpView,
    DatasetList,
    DatasetView,
    EventList,
    ExplainView,
    Health,
    JobList,
    JobView,
    KeyList,
    KeyView,
    LabelList,
    MetricsView,
    ModelEventList,
    ModelList,
    ModelView,
    NewKeyView,
    PlanView,
    PredictResponse,
    ProjectList,
    ProjectView,
    ReproductionView,
    SessionView,
    VersionList,
    VersionView,
    WorkerList,
    WorkerView,
)

EVENT_STREAM = "text/event-stream"
CLEAN_UP_SECONDS = 3600.0
PREDICT_SECONDS = 120.0  # a cold model may be loading
Image = str | Path | bytes
Archive = Literal["zip", "tar.gz"]


def submit(spec: JobSpec | Mapping[str, Any], key: str | None) -> Call[JobView]:
    """With a key of our own when none is given: a lost answer may then be asked for again."""
    headers = {"Idempotency-Key": key or uuid.uuid4().hex}
    return Call("POST", "/jobs", model(JobView), json=_plain(spec), headers=headers)


def plan(spec: JobSpec | Mapping[str, Any]) -> Call[PlanView]:
    return Call("POST", "/jobs", model(PlanView), json=_plain(spec), params={"dry_run": "true"})


def jobs(**filters: Any) -> Call[JobList]:
    return Call("GET", "/jobs", model(JobList), params=filters)


def job(job_id: str) -> Call[JobView]:
    return Call("GET", _job(job_id), model(JobView))


def events(job_id: str, after: int, limit: int | None) -> Call[EventList]:
    return Call("GET", _job(job_id, "events"), model(EventList), params={"after": after, "limit": limit})


def event_stream(job_id: str, after: int) -> Call[None]:
    headers = {"Accept": EVENT_STREAM, "Last-Event-ID": str(after), "Cache-Control": "no-store"}
    return Call("GET", _job(job_id, "events"), nothing, headers=headers)


def logs(
    job_id: str, *, offset: int = 0, tail: int | None = None, follow: bool = False, member: str | None = None
) -> Call[str]:
    params = {"offset": offset, "tail": tail, "follow": "true" if follow else None, "member": member}
    return Call("GET", _job(job_id, "logs"), lambda response: response.text, params=params)


def metrics(job_id: str, names: Sequence[str] | None, max_points: int | None) -> Call[MetricsView]:
    params = {"names": ",".join(names) if names else None, "max_points": max_points}
    return Call("GET", _job(job_id, "metrics"), model(MetricsView), params=params)


def artifacts(job_id: str, path: str, limit: int | None, after: str | None) -> Call[ArtifactList]:
    params = {"path": path or None, "limit": limit, "after": after}
    return Call("GET", _job(job_id, "artifacts"), model(ArtifactList), params=params)


def artifact(job_id: str, name: str) -> Call[None]:
    return Call("GET", _job(job_id, "artifacts", *map(_part, name.split("/"))), nothing)


def artifact_archive(job_id: str, kind: Archive, path: str) -> Call[None]:
    return Call("GET", _job(job_id, f"artifacts.{kind}"), nothing, params={"path": path or None})


def version_archive(name: str, number: int, kind: Archive) -> Call[None]:
    path = f"/models/{_model(name)}/versions/{number:d}/download"
    return Call("GET", path, nothing, params={"archive": kind})


def checkpoints(job_id: str, *, verify: bool) -> Call[CheckpointList]:
    params = {"verify": "true" if verify else "false"}
    return Call("GET", _job(job_id, "checkpoints"), model(CheckpointList), params=params)


def study(job_id: str) -> Call[StudyView]:
    return Call("GET", _job(job_id, "study"), model(StudyView))


def trials(job_id: str, **filters: Any) -> Call[TrialList]:
    return Call("GET", _job(job_id, "trials"), model(TrialList), params=filters)


def importance(job_id: str, objective: str | None) -> Call[ImportanceView]:
    params = {"objective": objective}
    return Call("GET", _job(job_id, "importance"), model(ImportanceView), params=params)


def study_history(job_id: str, objective: str | None, max_points: int | None) -> Call[HistoryView]:
    params = {"objective": objective, "max_points": max_points}
    return Call("GET", _job(job_id, "history"), model(HistoryView), params=params)


def parallel(job_id: str, max_lines: int | None) -> Call[ParallelView]:
    return Call("GET", _job(job_id, "parallel"), model(ParallelView), params={"max_lines": max_lines})


def cancel(job_id: str) -> Call[JobView]:
    return Call("POST", _job(job_id, "cancel"), model(JobView))


def reproduce(job_id: str) -> Call[JobView]:
    """A new job, so it carries a key as ``submit`` does."""
    headers = {"Idempotency-Key": uuid.uuid4().hex}
    return Call("POST", _job(job_id, "reproduce"), model(JobView), headers=headers)


def reproduction(job_id: str, tolerance: float | None) -> Call[ReproductionView]:
    return Call("GET", _job(job_id, "reproduction"), model(ReproductionView), params={"tolerance": tolerance})


def retry(job_id: str, start: Literal["checkpoint", "scratch"]) -> Call[JobView]:
    """Each retry is a new job, so it carries a key as ``submit`` does."""
    return Call(
        "POST",
        _job(job_id, "retry"),
        model(JobView),
        json={"from": start},
        headers={"Idempotency-Key": uuid.uuid4().hex},
    )


def upload(name: str, file_name: str, source: IO[bytes]) -> Call[DatasetView]:
    files = {"file": (file_name, source, "application/octet-stream")}
    # the stream can be read once, and a large file takes as long as it takes
    return Call(
        "POST",
        "/datasets",
        model(DatasetView),
        params={"name": name},
        files=files,
        repeatable=False,
        timeout=3600.0,
    )


def datasets(limit: int | None, after: str | None) -> Call[DatasetList]:
    return Call("GET", "/datasets", model(DatasetList), params={"limit": limit, "after": after})


def dataset(dataset_id: str) -> Call[DatasetView]:
    return Call("GET", f"/datasets/{_part(dataset_id)}", model(DatasetView))


def delete_dataset(dataset_id: str) -> Call[None]:
    return Call("DELETE", f"/datasets/{_part(dataset_id)}", nothing)


def models(limit: int | None, after: str | None) -> Call[ModelList]:
    return Call("GET", "/models", model(ModelList), params={"limit": limit, "after": after})


def one_model(name: str) -> Call[ModelView]:
    return Call("GET", f"/models/{_model(name)}", model(ModelView))


def versions(name: str, limit: int | None, after: int | None) -> Call[VersionList]:
    params = {"limit": limit, "after": after}
    return Call("GET", f"/models/{_model(name)}/versions", model(VersionList), params=params)


def version(name: str, number: int) -> Call[VersionView]:
    return Call("GET", f"/models/{_model(name)}/versions/{number:d}", model(VersionView))


def labels(name: str) -> Call[LabelList]:
    return Call("GET", f"/models/{_model(name)}/labels", model(LabelList))


def set_label(name: str, label: str, route: Mapping[str, Any]) -> Call[ModelView]:
    path = f"/models/{_model(name)}/labels/{checked_name(label, field='label')}"
    # versions may have to be loaded before the answer comes
    return Call("PUT", path, model(ModelView), json=dict(route), timeout=PREDICT_SECONDS)


def rollback(name: str, label: str | None, version: int | None) -> Call[ModelView]:
    body = {"label": label, "version": version}
    return Call(
        "POST", f"/models/{_model(name)}/rollback", model(ModelView), json=body, timeout=PREDICT_SECONDS
    )


def model_events(name: str, after: int, limit: int | None) -> Call[ModelEventList]:
    params = {"after": after, "limit": limit}
    return Call("GET", f"/models/{_model(name)}/events", model(ModelEventList), params=params)


def delete_label(name: str, label: str) -> Call[None]:
    return Call("DELETE", f"/models/{_model(name)}/labels/{checked_name(label, field='label')}", nothing)


def delete_version(name: str, number: int) -> Call[None]:
    return Call("DELETE", f"/models/{_model(name)}/versions/{number:d}", nothing)


def clean_up(policy: Mapping[str, Any], *, dry_run: bool) -> Call[CleanUpView]:
    params = {"dry_run": "true" if dry_run else "false"}
    return Call(
        "POST",
        "/maintenance/clean-up",
        model(CleanUpView),
        json=dict(policy),
        params=params,
        timeout=CLEAN_UP_SECONDS,
    )


def predict(body: Mapping[str, Any]) -> Call[PredictResponse]:
    return Call(
        "POST", "/predict", model(PredictResponse), json=_numbers(dict(body)), timeout=PREDICT_SECONDS
    )


def predict_images(
    name: str, images: Sequence[Image], *, version: int | None, label: str | None
) -> Call[PredictResponse]:
    fields = {"model": name, "version": None if version is None else str(version), "label": label}
    return Call(
        "POST",
        "/predict",
        model(PredictResponse),
        data={key: value for key, value in fields.items() if value is not None},
        files=[("image", _image(number, image)) for number, image in enumerate(images)],
        timeout=PREDICT_SECONDS,
    )


def create_key(wanted: Mapping[str, Any]) -> Call[NewKeyView]:
    # sent twice, it would make two keys of which one is lost
    return Call("POST", "/keys", model(NewKeyView), json=dict(wanted), repeatable=False)


def keys(limit: int | None, after: str | None) -> Call[KeyList]:
    return Call("GET", "/keys", model(KeyList), params={"limit": limit, "after": after})


def revoke_key(key_id: str) -> Call[KeyView]:
    return Call("DELETE", f"/keys/{_part(key_id)}", model(KeyView))


def audit(limit: int | None, after: int | None, key: str | None) -> Call[AuditList]:
    return Call("GET", "/audit", model(AuditList), params={"limit": limit, "after": after, "key": key})


def whoami() -> Call[SessionView]:
    return Call("GET", "/session", model(SessionView))


def builders() -> Call[BuilderList]:
    return Call("GET", "/builders", model(BuilderList))


def workers() -> Call[WorkerList]:
    return Call("GET", "/workers", model(WorkerList))


def drain(worker_id: str, *, now: bool) -> Call[WorkerView]:
    return Call("POST", f"/workers/{_part(worker_id)}/drain", model(WorkerView), json={"now": now})


def undrain(worker_id: str) -> Call[WorkerView]:
    return Call("POST", f"/workers/{_part(worker_id)}/undrain", model(WorkerView))


def projects() -> Call[ProjectList]:
    return Call("GET", "/projects", model(ProjectList))


def set_project(name: str, max_running: int | None) -> Call[ProjectView]:
    path = f"/projects/{checked_name(name, field='project')}"
    return Call("PUT", path, model(ProjectView), json={"max_running": max_running})


def explain(job_id: str) -> Call[ExplainView]:
    return Call("GET", _job(job_id, "explain"), model(ExplainView))


def set_priority(job_id: str, priority: int) -> Call[JobView]:
    return Call("PUT", _job(job_id, "priority"), model(JobView), json={"priority": priority})


def health() -> Call[Health]:
    return Call("GET", "/healthz", model(Health))


def readiness() -> Call[Health]:
    """A 503 here is an answer, not an error: it says which part is missing."""
    return Call("GET", "/readyz", model(Health), repeatable=False, checked=False)


def _plain(spec: JobSpec | Mapping[str, Any]) -> Any:
    return spec.model_dump(mode="json") if isinstance(spec, BaseModel) else dict(spec)


def _numbers(value: Any) -> Any:
    """NumPy arrays and scalars as plain JSON data, without importing NumPy; bytes as TensorFlow Serving's b64."""
    if isinstance(value, dict):
        return {key: _numbers(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_numbers(item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def _image(number: int, image: Image) -> tuple[str, bytes, str]:
    if isinstance(image, bytes):
        return f"image-{number}", image, "application/octet-stream"
    path = Path(image)
    return path.name, path.read_bytes(), "application/octet-stream"


def _part(value: str) -> str:
    return quote(value, safe="")


def _job(job_id: str, *rest: str) -> str:
    return "/".join(("/jobs", _part(job_id), *rest))


def _model(name: str) -> str:
    return checked_name(name, field="model")
