"""Files of jobs and versions: listed, downloaded one by one, or all in one archive."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Header, Query
from starlette.responses import FileResponse, Response, StreamingResponse

from services.api import artifacts, render
from services.api.artifacts import ArchiveKind, Artifact
from services.api.deps import JobId, ModelName, ResourcesDep, VersionNumber
from services.api.describe import problems
from services.api.resources import Resources
from shared.errors import NotFound
from shared.views import ArtifactList

router = APIRouter()

_MEDIA = {"zip": "application/zip", "tar.gz": "application/gzip"}
_BINARY = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_ARCHIVE = {
    "description": "The archive, streamed.",
    "content": {kind: {"schema": {"type": "string", "format": "binary"}} for kind in _MEDIA.values()},
}
Below = Annotated[
    str,
    Query(max_length=1000, description="Only this folder or file of it.", examples=["export/saved_model"]),
]


def _run(resources: Resources, job_id: str) -> Path | None:
    job = resources.store.jobs.get(job_id)
    return artifacts.folder_of(resources.settings.paths.runs, job.run_dir) if job.run_dir else None


@router.get(
    "/jobs/{job_id}/artifacts",
    operation_id="listArtifacts",
    summary="List a job's files",
    response_model=ArtifactList,
    responses=problems(404, 422, 503),
    tags=["artifacts"],
)
def list_artifacts(
    job_id: JobId,
    resources: ResourcesDep,
    path: Below = "",
    limit: Annotated[int, Query(ge=1, le=1000, description="Files on a page.")] = 200,
    after: Annotated[
        str | None, Query(max_length=1000, description="Name of the last file of the page before.")
    ] = None,
) -> Response:
    """By name: exports, what the run keeps, checkpoints, callbacks' files, event files, the log."""
    root = _run(resources, job_id)
    files = artifacts.files_of(root, path) if root is not None else []
    begin = bisect_right([item.name for item in files], after) if after is not None else 0
    page = resources.hashes.page(files[begin : begin + limit])
    items = [render.artifact(item, digest, job_id) for item, digest in page]
    return render.answer({"items": items, "has_more": len(files) > begin + limit})


@router.get(
    "/jobs/{job_id}/artifacts.{kind}",
    operation_id="downloadArtifacts",
    summary="Download a job's files as one archive",
    response_class=Response,
    responses={200: _ARCHIVE, **problems(404, 422, 503)},
    tags=["artifacts"],
)
def download_artifacts(
    job_id: JobId, kind: ArchiveKind, resources: ResourcesDep, path: Below = ""
) -> Response:
    """Made while it is sent: no copy is made on disk, and none in memory."""
    root = _run(resources, job_id)
    if root is None:
        raise NotFound(f"The job {job_id} has no files yet.", code="artifact_not_found")
    return _archive(artifacts.files_of(root, path), kind, job_id)


@router.get(
    "/jobs/{job_id}/artifacts/{path:path}",
    operation_id="getArtifact",
    summary="Download one file of a job",
    response_class=Response,
    responses={
        200: {"description": "The file.", "content": _BINARY},
        206: {"description": "The bytes that Range asks for.", "content": _BINARY},
        304: {"description": "It has not changed: If-None-Match has its ETag."},
        **problems(404, 503),
    },
    tags=["artifacts"],
)
def get_artifact(
    job_id: JobId,
    path: str,
    resources: ResourcesDep,
    if_none_match: Annotated[str | None, Header(description="An ETag seen before.")] = None,
) -> Response:
    """The ETag stays as long as the file does; up to 64 MiB it is its SHA-256. Ranges let a broken download go on."""
    root = _run(resources, job_id)
    if root is None:
        raise NotFound(f"The job {job_id} has no files yet.", code="artifact_not_found")
    item = artifacts.find(root, path)
    etag = resources.hashes.etag(item)
    headers = {"ETag": etag, "Cache-Control": "no-cache", "X-Content-Type-Options": "nosniff"}
    if if_none_match is not None and etag in [tag.strip() for tag in if_none_match.split(",")]:
        return Response(status_code=304, headers=headers)
    return FileResponse(
        item.path, headers=headers, filename=item.path.name, media_type="application/octet-stream"
    )


@router.get(
    "/models/{model}/versions/{version}/download",
    operation_id="downloadVersion",
    summary="Download a version as one archive",
    response_class=Response,
    responses={200: _ARCHIVE, **problems(404, 422, 503)},
    tags=["models"],
)
def download_version(
    model: ModelName,
    version: VersionNumber,
    resources: ResourcesDep,
    archive: Annotated[ArchiveKind, Query(description="Form of the archive.")] = "zip",
) -> Response:
    """The SavedModel as it is served, with what lies beside it. Unpacked into a folder named by the model, it can be
    served by any TensorFlow Serving.
    """
    record = resources.store.models.version(model, version)
    root = artifacts.folder_of(resources.settings.paths.models, f"{record.model}/{record.version}")
    if root is None:
        raise NotFound(
            f"The files of version {version} of {model!r} are gone from this disk.", code="artifact_not_found"
        )
    return _archive(artifacts.files_of(root), archive, str(version), file_name=f"{model}-{version}")


def _archive(files: list[Artifact], kind: ArchiveKind, top: str, *, file_name: str | None = None) -> Response:
    body: Iterator[bytes] = artifacts.archive(files, kind, top)
    headers = {
        "Content-Disposition": f'attachment; filename="{file_name or top}.{kind}"',
        "Cache-Control": "no-store",
    }
    return StreamingResponse(body, media_type=_MEDIA[kind], headers=headers)
