"""What routes ask for, as typed dependencies. They are coroutines, so that none costs a thread."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Path, Query, Request

from services.api.model_server import ModelServer
from services.api.remote_files import RemoteFiles
from services.api.resources import Resources
from services.api.studies import Studies
from services.api.submission import Submission
from services.api.uploads import Uploads
from shared.errors import NotFound
from shared.names import ID_PATTERN, NAME_PATTERN
from shared.store import Store


def resources_of(request: Request) -> Resources:
    """What the application's lifespan has built."""
    found: Resources = request.app.state.resources
    return found


async def _resources(request: Request) -> Resources:
    return resources_of(request)


async def _store(request: Request) -> Store:
    return resources_of(request).store


async def _submission(request: Request) -> Submission:
    return resources_of(request).submission


async def _studies(request: Request) -> Studies:
    return resources_of(request).studies


async def _remote_files(request: Request) -> RemoteFiles:
    return RemoteFiles(resources_of(request).settings)


async def _uploads(request: Request) -> Uploads:
    return resources_of(request).uploads


async def _model_server(request: Request) -> ModelServer:
    return resources_of(request).model_server


async def _raw_body(request: Request) -> bytes:
    return await request.body()


async def _job_id(job_id: Annotated[str, Path(examples=["job_06cf8m2k1x3q9r7t5vnw0a"])]) -> str:
    if not ID_PATTERN.fullmatch(job_id):
        raise NotFound(
            f"There is no job {job_id[:80]!r}.", code="job_not_found", hint="See the jobs with GET /jobs."
        )
    return job_id


async def _dataset_id(dataset_id: Annotated[str, Path(examples=["ds_06cf8m2k1x3q9r7t5vnw0a"])]) -> str:
    if not ID_PATTERN.fullmatch(dataset_id):
        raise NotFound(
            f"There is no dataset {dataset_id[:80]!r}.",
            code="dataset_not_found",
            hint="See the datasets with GET /datasets.",
        )
    return dataset_id


async def _model_name(model: Annotated[str, Path(examples=["fashion"])]) -> str:
    if "\0" in model or len(model) > 200:
        raise NotFound(
            "There is no such model.", code="model_not_found", hint="See what is there with GET /models."
        )
    return model


ResourcesDep = Annotated[Resources, Depends(_resources)]
StoreDep = Annotated[Store, Depends(_store)]
StudiesDep = Annotated[Studies, Depends(_studies)]
SubmissionDep = Annotated[Submission, Depends(_submission)]
UploadsDep = Annotated[Uploads, Depends(_uploads)]
RemoteFilesDep = Annotated[RemoteFiles, Depends(_remote_files)]
ModelServerDep = Annotated[ModelServer, Depends(_model_server)]
RawBody = Annotated[bytes, Depends(_raw_body)]
JobId = Annotated[str, Depends(_job_id)]
DatasetId = Annotated[str, Depends(_dataset_id)]
ModelName = Annotated[str, Depends(_model_name)]
VersionNumber = Annotated[int, Path(ge=0, le=2**62, examples=[3])]
Limit = Annotated[int, Query(ge=1, le=200, description="Items on a page.")]
AfterId = Annotated[
    str | None,
    Query(max_length=64, pattern=r"^[A-Za-z0-9_-]+$", description="The last id of the page before."),
]
NameFilter = Annotated[str | None, Query(pattern=NAME_PATTERN)]
ParentFilter = Annotated[
    str | None,
    Query(max_length=64, pattern=r"^[A-Za-z0-9_-]+$", description="Id of a tune job: its trials."),
]
IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        description="Your own name for this request: sent again with the same body within 7 days, "
        "it answers with the same job.",
    ),
]
